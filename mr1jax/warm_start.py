"""The supervised start of both agents: one small model learns the two formats, copying, and the teacher's habits, good and bad.

Look-up in context appears suddenly after a plateau. What shortens it here: an answer first quotes the memory word for word, so that look-up
becomes "copy what followed the same words"; many questions share one context; the number of memories grows in stages; Muon.
"""

import copy
import functools
import random
import string
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from optax.contrib import MuonDimensionNumbers
from tqdm import tqdm

from mr1jax.agents.prompts import DATE_MARK, MARKERS
from mr1jax.config import Config, ModelConfig, replace
from mr1jax.data.loader import make_loader
from mr1jax.data.memdial import lessons
from mr1jax.data.memdial.lessons import AnswerLesson, Line, ManagerLesson
from mr1jax.data.memdial.lexicon import COMMON, MONTHS
from mr1jax.data.memdial.world import NO_ANSWER
from mr1jax.model import transformer
from mr1jax.model.weights import save_params
from mr1jax.rl.masked import masked_mean
from mr1jax.structs import PAD, Array, PyTree
from mr1jax.text.tokenizer import SentencePieceTokenizer, Tokenizer, train_sentencepiece

DISGUISED_NAMES, DISGUISED_WORDS = 0.6, 0.2  # shares of the names and values of a lesson, and of its other words
_VALUES = frozenset(word for words in COMMON.values() for word in words)
# Capitals that are no names, and the words of an answer that stands in no memory: nobody could know what is put in their place.
_KEPT = frozenset([*MONTHS, "What", "When", "Where", "Which", "Can", "Do", "On", "Sorry", *NO_ANSWER.split()])
NUM_WORLDS = 4000  # training conversations that lessons are drawn from
VOCAB_SIZE = 1024
CONTEXT_TOKENS, REPLY_TOKENS = 96, 52  # room for an answer lesson: its memories; a question with its answer
DECISION_TOKENS = 96  # room for what the Manager sees in a lesson. The few lessons that need more are skipped


@dataclass(frozen=True)
class WarmStartConfig:
    """How the warm start trains. A stage is (share of the steps, memories shown at most)."""

    steps: int = 2800
    contexts: int = 16  # of the Answer Agent, in a step
    questions: int = 8  # to a context
    decisions: int = 16  # of the Manager, in a step
    learning_rate: float = 0.02  # of Muon, for the matrices of the layers
    adam_learning_rate: float = 0.004  # for embedding, norms and biases
    stages: tuple[tuple[float, int], ...] = ((0.07, 1), (0.1, 2), (0.83, 4))
    seed: int = 0


@struct.dataclass
class LessonBatch:
    """prompt: int32[P, L], prompt_length: int32[P], response: int32[P, G, R], graded: bool[P, G, R] what is to be imitated."""

    prompt: Array
    prompt_length: Array
    response: Array
    graded: Array


def imitation_loss(params: PyTree, batch: LessonBatch, config: ModelConfig) -> tuple[Array, Array]:
    """Cross-entropy of the graded tokens, -1/n sum log p(token), and the share of responses that greedy decoding would write."""
    hidden_PGRD = transformer.response_hidden(config, params, batch.prompt, batch.prompt_length, batch.response)
    logits_PGRV = transformer.logits(config, params, hidden_PGRD)
    loss_PGR = optax.softmax_cross_entropy_with_integer_labels(logits_PGRV, batch.response)
    right_PGR = (jnp.argmax(logits_PGRV, axis=-1) == batch.response) | ~batch.graded
    return masked_mean(loss_PGR, batch.graded), jnp.mean(jnp.all(right_PGR, axis=-1), dtype=jnp.float32)


def make_optimizer(warm: WarmStartConfig) -> optax.GradientTransformation:
    """Muon for the matrices of the layers, which are stacked along their first axis, and Adam for all else; warmed up, then a cosine."""
    as_matrix = {name: MuonDimensionNumbers(1, 2) for name in ("gate", "up", "down")}
    as_matrix |= {name: MuonDimensionNumbers(1, (2, 3)) for name in ("query", "key", "value")}
    as_matrix |= {"output": MuonDimensionNumbers((1, 2), 3)}

    def dimension_numbers(params: PyTree) -> PyTree:
        return jax.tree_util.tree_map_with_path(lambda path, _: as_matrix.get(path[-1].key), params)

    def schedule(rate: float) -> optax.Schedule:
        return optax.warmup_cosine_decay_schedule(0.0, rate, 60, warm.steps, 0.05 * rate)

    muon = optax.contrib.muon(
        schedule(warm.learning_rate),
        adam_learning_rate=schedule(warm.adam_learning_rate),
        adam_b2=0.98,
        muon_weight_dimension_numbers=dimension_numbers,
    )
    return optax.chain(optax.clip_by_global_norm(1.0), muon)


def make_update(config: ModelConfig, tx: optax.GradientTransformation) -> Callable:
    """Builds the jitted step over both agents' lessons: (params, opt_state, answers, decisions) -> (params, opt_state, metrics)."""

    def total_loss(params, answers, decisions):
        answer_loss, answer_right = imitation_loss(params, answers, config)
        manager_loss, manager_right = imitation_loss(params, decisions, config)
        metrics = {"answerer": answer_loss, "answerer_right": answer_right, "manager": manager_loss, "manager_right": manager_right}
        return answer_loss + 0.5 * manager_loss, metrics

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(params, opt_state, answers, decisions):
        gradient, metrics = jax.grad(total_loss, has_aux=True)(params, answers, decisions)
        updates, opt_state = tx.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, metrics

    return update


class Disguise:
    """Gives words of one lesson random tokens instead of their own, the same ones wherever they stand: most names and values, some others.

    A few hundred names, values and templates would else be learnt by heart, and what is copied would depend on which tokens it has: a
    person of the test split, whose name comes in pieces that never began a sentence, could not be quoted, nor what is said in
    a new wording. Copying has to work for any tokens.
    """

    def __init__(self, tokenizer: Tokenizer, rng: random.Random):
        self._rng = rng
        self._tokens_of: dict[str, tuple[int, ...] | None] = {}
        self._begin, self._inside = _word_pieces(tokenizer)

    def tokens(self, word: str) -> tuple[int, ...] | None:
        """The tokens that stand for a word in this lesson, or None where it keeps its own."""
        if word not in self._tokens_of:
            named = word in _VALUES or (word[:1].isupper() and word not in _KEPT)
            hidden = word not in _KEPT and self._rng.random() < (DISGUISED_NAMES if named else DISGUISED_WORDS)
            inside = self._rng.choices(self._inside, k=self._rng.randrange(4))
            self._tokens_of[word] = (self._rng.choice(self._begin), *inside) if hidden else None
        return self._tokens_of[word]


@functools.lru_cache(maxsize=1)
def _word_pieces(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Tokens that can begin a word (their bytes start with a space) and tokens that can continue one."""
    pieces = {token: tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)}
    begin = [token for token, piece in pieces.items() if piece[:1] == b" " and piece[1:].isalpha()]
    inside = [token for token, piece in pieces.items() if piece.isalpha() and piece.islower()]
    return begin, inside


class LessonEncoder:
    """Turns lessons into arrays: the same tokens that `observe` packs inside the program, which a test holds it to."""

    def __init__(self, tokenizer: Tokenizer, config: Config, disguise: Disguise | None = None):
        self._tokenizer, self._config, self._disguise = tokenizer, config, disguise
        self._own = functools.lru_cache(maxsize=200_000)(lambda text: tuple(tokenizer.encode(text)))
        self._marker = functools.lru_cache(maxsize=None)(lambda text: tuple(tokenizer.encode_exactly(text)))

    def disguised(self, rng: random.Random) -> "LessonEncoder":
        """The same encoder for one lesson in which names and values are disguised."""
        encoder = copy.copy(self)
        encoder._disguise = Disguise(self._tokenizer, rng)
        return encoder

    def _encode(self, text: str) -> tuple[int, ...]:
        if self._disguise is None:
            return self._own(text)
        return tuple(token for word in text.split(" ") for token in self._encode_word(word))

    def _encode_word(self, word: str) -> tuple[int, ...]:
        letters = len(word) - len(word.lstrip(string.ascii_letters))
        tokens = self._disguise.tokens(word[:letters])
        return self._own(word) if tokens is None else (*tokens, *self._marker(word[letters:])) if word[letters:] else tokens

    def line(self, line: Line, number: int = 0) -> list[int]:
        """Tokens of one memory line; numbered where `number` is not 0."""
        text, date = line
        front = self._encode(f"{number}:") if number else ()
        return [*front, *self._encode(text), *self._encode(DATE_MARK), *self._encode(date), *self._marker("\n")]

    def answer(self, lesson: AnswerLesson) -> LessonBatch | None:
        """One context with its G replies, or None where one of them is too long."""
        prompt = [*self._marker("Memories:"), *self._marker("\n"), *(t for line in lesson.memories for t in self.line(line))]
        pairs: list[tuple[list[int], list[int]]] = []
        for question, quoted, answer in lesson.replies:
            asked = [*self._marker("Question:"), *self._encode(question), *self._marker("\n")]
            reply = [*(t for line in quoted for t in self.line(line)), *self._marker("**Answer:**"), *self._encode(answer)]
            pairs.append((asked, [*reply, self._tokenizer.eos_id]))
        return self._arrays(prompt, pairs, CONTEXT_TOKENS, REPLY_TOKENS)

    def decision(self, lesson: ManagerLesson) -> LessonBatch | None:
        """One decision of the Manager, G = 1, or None where it is too long."""
        prompt = [*self._marker("Memories:"), *self._marker("\n")]
        prompt += [t for k, line in enumerate(lesson.memories) for t in self.line(line, number=k + 1)]
        prompt += [*self._marker("Fact:"), *self.line(lesson.fact)]
        number, text = self._encode(str(lesson.number)), self._encode(lesson.fact[0])
        reply = {
            "noop": [*self._marker("NOOP")],
            "add": [*self._marker("ADD:"), *text],
            "update": [*self._marker("UPDATE"), *number, *self._marker(":"), *text],
            "delete": [*self._marker("DELETE"), *number],
            "replace": [*self._marker("DELETE"), *number, *self._marker("\n"), *self._marker("ADD:"), *text],
        }[lesson.kind]
        pairs: list[tuple[list[int], list[int]]] = [([], [*reply, self._tokenizer.eos_id])]
        return self._arrays(prompt, pairs, DECISION_TOKENS, self._config.manager.response_length)

    def _arrays(self, prompt: list[int], pairs: list, prompt_tokens: int, response_tokens: int) -> LessonBatch | None:
        if len(prompt) > prompt_tokens or any(len(asked) + len(reply) > response_tokens for asked, reply in pairs):
            return None
        response = np.full((len(pairs), response_tokens), PAD, np.int32)
        graded = np.zeros(response.shape, bool)
        for row, (asked, reply) in enumerate(pairs):
            response[row, : len(asked) + len(reply)] = [*asked, *reply]
            graded[row, len(asked) : len(asked) + len(reply)] = True
        padded = np.full(prompt_tokens, PAD, np.int32)
        padded[: len(prompt)] = prompt
        return LessonBatch(padded, np.int32(len(prompt)), response, graded)


def _first(draw: Callable[[], LessonBatch | None]) -> LessonBatch:
    return next(batch for batch in iter(draw, object()) if batch is not None)


def lesson_batches(encoder: LessonEncoder, config: Config, warm: WarmStartConfig) -> Iterator[tuple[LessonBatch, LessonBatch]]:
    """Yields (answers, decisions) for every step, through the stages. Each lesson depends on its own number and the seed alone."""
    num_slots = config.bank.num_slots
    for stage, (share, most) in enumerate(warm.stages):

        def answer(index, most=most, stage=stage):
            rng = random.Random(f"answer/{warm.seed}/{stage}/{index}")
            shown = rng.randint(max(1, most // 2), most)
            return _first(lambda: encoder.disguised(rng).answer(lessons.answer_lesson(rng, NUM_WORLDS, shown, warm.questions, num_slots)))

        def decision(index, stage=stage):
            rng = random.Random(f"decision/{warm.seed}/{stage}/{index}")
            shown = config.manager.num_retrieved
            return _first(lambda: encoder.disguised(rng).decision(lessons.manager_lesson(rng, NUM_WORLDS, shown, num_slots)))

        steps = round(share * warm.steps)
        answers = make_loader(range(steps * warm.contexts), answer, batch_size=warm.contexts, seed=warm.seed)
        decisions = make_loader(range(steps * warm.decisions), decision, batch_size=warm.decisions, seed=warm.seed)
        for _ in range(steps):
            yield next(answers), next(decisions)


def train_tokenizer(path: Path) -> SentencePieceTokenizer:
    """Trains the tokenizer of `tiny` on what people in memdial's training split say."""
    return train_sentencepiece(lessons.corpus(3000), path, VOCAB_SIZE, MARKERS)


def warm_start(config: Config, warm: WarmStartConfig, assets: Path, params: PyTree | None = None) -> PyTree:
    """Trains tokenizer and model, and writes `tokenizer.model` and `warm_start.safetensors` into `assets`. Returns the parameters."""
    assets.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(assets / "tokenizer.model")
    model = replace(config.model, vocab_size=tokenizer.vocab_size)
    tx = make_optimizer(warm)
    if params is None:
        params = transformer.init_params(model, jax.random.key(warm.seed))
    opt_state, update = tx.init(params), make_update(model, tx)
    started, log = time.monotonic(), []
    progress = tqdm(lesson_batches(LessonEncoder(tokenizer, config), config, warm), total=warm.steps, desc="warm start", mininterval=5)
    for step, (answers, decisions) in enumerate(progress):
        params, opt_state, metrics = update(params, opt_state, answers, decisions)
        log.append(metrics)
        if (step + 1) % 50 == 0:
            mean = {name: float(np.mean([m[name] for m in log])) for name in metrics}
            tqdm.write(f"step {step + 1:5d}  " + "  ".join(f"{name} {value:.3f}" for name, value in mean.items()))
            log = []
        if (step + 1) % 200 == 0 or step + 1 == warm.steps:
            seconds = time.monotonic() - started
            save_params(assets / "warm_start.safetensors", params, {"steps": str(step + 1), "seconds": f"{seconds:.0f}"})
    return params
