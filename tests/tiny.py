"""A world small enough to compile in seconds: a vocabulary of words, one layer of sixteen numbers, banks of six slots in plain text."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_bank import NUM_SLOTS, WIDTH

from mr1jax.agents.answerer import AskedQuestion
from mr1jax.agents.manager import NewFact
from mr1jax.agents.prompts import MARKERS, Dates, make_language
from mr1jax.agents.rollout import AnswerTask, ManagerTask
from mr1jax.config import AgentConfig, BankConfig, Config, ModelConfig, OptimizerConfig
from mr1jax.model.transformer import init_params
from mr1jax.structs import NEVER, PAD, Conversation, MemoryBank
from mr1jax.text.words import hash_word, words

EOS = 1
NUM_TERMS = 5
SUBJECTS, VERBS, OBJECTS = ("Mia", "Ben", "Zoe"), ("likes", "plays", "sees"), ("tea", "jazz", "chess", "blue")
DATES = ("1 May", "2 May", "3 May")
ANSWER_WIDTH = 24  # bytes
_LINE_WIDTH = 6  # tokens of a question; those of a fact are WIDTH
_WORDS = (
    *SUBJECTS,
    *VERBS,
    *OBJECTS,
    "Who",
    "What",
    "the",
    "The",
    "Tea",
    "May",
    "|",
    "1",
    "2",
    "3",
    "4",
    "12",
    *(f"[{k}]" for k in range(1, 9)),
)
_SIGNS = (" ", ":", "?", ".", ",")


class WordTokenizer:
    """PAD, EOS, the markers, signs, and words with the space before them; longest piece first, a space before every text."""

    pad_id, eos_id = PAD, EOS

    def __init__(self):
        self.pieces = [b"", b"", *(text.encode() for text in (*MARKERS, *_SIGNS)), *(f" {word}".encode() for word in _WORDS)]
        self.vocab_size = len(self.pieces)
        self._longest_first = sorted(range(2, self.vocab_size), key=lambda token: -len(self.pieces[token]))

    def encode(self, text):
        data, tokens = f" {text}".encode(), []
        while data:
            tokens.append(next(token for token in self._longest_first if data.startswith(self.pieces[token])))
            data = data[len(self.pieces[tokens[-1]]) :]
        return tokens

    def encode_exactly(self, text):
        ids = self.encode(text)
        return ids[1:] if self.pieces[ids[0]] == b" " else ids

    def decode(self, ids):
        return b"".join(self.pieces[token] for token in ids).decode().removeprefix(" ")

    def token_bytes(self, token):
        return self.pieces[token]


TOKENIZER = WordTokenizer()
CONFIG = Config(
    steps=4,
    prompts_per_step=8,
    group_size=4,
    questions_per_state=2,
    model=ModelConfig(vocab_size=TOKENIZER.vocab_size, d_model=16, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=8, d_ff=32),
    bank=BankConfig(NUM_SLOTS, WIDTH, NUM_TERMS),
    manager=AgentConfig(num_retrieved=3, prompt_length=30, response_length=12),
    answerer=AgentConfig(num_retrieved=4, prompt_length=32, response_length=12),
    optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=0),
)


_init = jax.jit(init_params, static_argnums=0)  # not operation by operation, each of which is a program to compile
LANGUAGE = make_language(TOKENIZER, max(CONFIG.manager.num_shown, CONFIG.answerer.num_shown))


class Said(NamedTuple):
    """A memory or a fact in plain text. time: an index of DATES, of its last write; created: another, of the ADD of a memory."""

    text: str
    time: int = 0
    speaker: int = 0
    created: int = 0


@pytest.fixture(scope="module", autouse=True)
def unoptimised():
    """Tells XLA to optimise nothing, in the modules that import this: programs so small spend their time in the compiler."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def params(seed=0, scale=1.0, config=CONFIG):
    """Random parameters; a scale above 1 makes what an agent says depend more on what it reads."""
    return jax.tree.map(lambda x: x * scale, _init(config.model, jax.random.key(seed)))


def both(seed=0, scale=1.0, config=CONFIG):
    """Different random parameters for the two agents."""
    return {"manager": params(2 * seed, scale, config), "answerer": params(2 * seed + 1, scale, config)}


def row(text, width):
    """The tokens of a text as int32[width], cut, and how many there are."""
    tokens = TOKENIZER.encode(text)[:width]
    return np.array(tokens + [PAD] * (width - len(tokens)), np.int32), np.int32(len(tokens))


def response(text, width, finished=True):
    """The tokens of a response as an agent writes it: no space in front, the end token behind; int32[width] and the length."""
    tokens = TOKENIZER.encode(text)
    tokens = tokens[TOKENIZER.pieces[tokens[0]] == b" " :] + [EOS] * finished
    return np.array((tokens + [PAD] * width)[:width], np.int32), np.int32(min(len(tokens), width))


def bank(memories):
    """A bank of {slot: Said}, written in the order of the dict; what no slot holds is left empty."""
    texts = {slot: row(said.text, WIDTH) for slot, said in memories.items()}
    terms = {slot: [hash_word(word) for word in words(TOKENIZER.decode(texts[slot][0][: texts[slot][1]]))] for slot in memories}

    def column(values, empty):
        return np.array([values.get(slot, empty) for slot in range(NUM_SLOTS)], np.int32)

    return MemoryBank(
        tokens=np.stack([texts[slot][0] if slot in texts else np.full(WIDTH, PAD, np.int32) for slot in range(NUM_SLOTS)]),
        length=column({slot: length for slot, (_, length) in texts.items()}, 0),
        occupied=np.array([slot in memories for slot in range(NUM_SLOTS)]),
        terms=np.array([(terms.get(slot, []) + [0] * NUM_TERMS)[:NUM_TERMS] for slot in range(NUM_SLOTS)], np.int32),
        speaker=column({slot: said.speaker for slot, said in memories.items()}, 0),
        created=column({slot: said.created for slot, said in memories.items()}, NEVER),
        updated=column({slot: said.time for slot, said in memories.items()}, NEVER),
        written=column({slot: when for when, slot in enumerate(memories)}, 0),
        clock=np.int32(len(memories)),
    )


def fact(said):
    return NewFact(*row(said.text, WIDTH), np.int32(said.speaker), np.int32(said.time))


def question(text, gold):
    answer = np.zeros(ANSWER_WIDTH, np.uint8)
    answer[: len(gold.encode())] = list(gold.encode())
    return AskedQuestion(*row(text, _LINE_WIDTH), answer, np.int32(len(gold.encode())))


def dates():
    rows = [row(date, 2) for date in DATES]
    return Dates(np.stack([tokens for tokens, _ in rows]), np.array([length for _, length in rows]))


def conversation(facts, num_facts):
    """A conversation of these facts, padded to `num_facts`, without questions."""
    padded = [fact(said) for said in facts] + [fact(Said("Who", 0, 0)).replace(length=np.int32(0))] * (num_facts - len(facts))
    said, days, none = stack(padded), dates(), np.zeros(0, np.int32)
    questions = "question_tokens question_length answer_bytes answer_length evidence category asked_after valid_until"
    return Conversation(
        fact_tokens=said.tokens,
        fact_length=said.length,
        fact_speaker=said.speaker,
        fact_time=said.time,
        date_tokens=days.tokens,
        date_length=days.length,
        **dict.fromkeys(questions.split(), none),
    )


def stack(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def answer_tasks(banks, questions):
    return stack([AnswerTask(bank(memories), question(*asked), dates()) for memories, asked in zip(banks, questions, strict=True)])


def manager_tasks(banks, facts, questions, num_questions=CONFIG.questions_per_state):
    """questions: a list of (text, gold) a task, as many as `num_questions` or fewer."""
    tasks = []
    for memories, said, asked in zip(banks, facts, questions, strict=True):
        padded = [question(*pair) for pair in asked] + [question("What", "")] * (num_questions - len(asked))
        tasks.append(ManagerTask(bank(memories), fact(said), stack(padded), np.arange(num_questions) < len(asked), dates()))
    return stack(tasks)


def random_said(rng, num_words=3):
    """Words that often repeat, so that memories share some: as a rule one sentence, now and then another length."""
    sentence = [rng.choice(SUBJECTS), rng.choice(VERBS), rng.choice(OBJECTS), rng.choice(OBJECTS)]
    size, time, speaker, created = rng.integers([num_words - 1, 0, 0, 0], [num_words + 2, len(DATES), 2, len(DATES)]).tolist()
    return Said(" ".join(sentence[:size]), time, speaker, created)


def random_memories(rng):
    """None to six memories in slots and an order drawn at random."""
    slots = rng.permutation(NUM_SLOTS)[: rng.integers(0, NUM_SLOTS + 1)]
    return {int(slot): random_said(rng) for slot in slots}


def random_question(rng):
    return f"What {rng.choice(SUBJECTS)} {rng.choice(VERBS)}?"


def at(tree, *index):
    return jax.tree.map(lambda x: np.asarray(x)[index], tree)


def assert_equal(left, right):
    """Bit for bit, leaf by leaf; typed keys by their data."""
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(_plain(a), _plain(b)), left, right)


def _plain(leaf):
    return np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)
