"""The benchmark: whole conversations become banks, then every question that holds at the end is asked of its bank, greedily.

Each of the two kinds of work is one compiled program for any parameters and any number of conversations: both go through in chunks of
one shape. Tables and files are the business of `report`.
"""

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from flax import struct
from tqdm import tqdm

from mr1jax.agents.manager import NewFact
from mr1jax.agents.play import replay
from mr1jax.agents.prompts import DATE_MARK, Language
from mr1jax.agents.rollout import AnswerTask, read, respond
from mr1jax.agents.tasks import answer_tasks, ask_at_end, fill_banks
from mr1jax.config import GREEDY, Config, replace
from mr1jax.embeddings import embed_banks, load_encoder
from mr1jax.memory.bank import init_bank
from mr1jax.statistics import bootstrap_interval, paired_test
from mr1jax.structs import NO_SLOT, Array, Conversation, MemoryBank, PyTree
from mr1jax.text.metrics import bleu1_mem0, exact_match, f1_mem0, token_f1
from mr1jax.text.parsing import parse_answer
from mr1jax.text.tokenizer import TextOf, text_reader

OPERATIONS = ("add", "update", "delete", "noop", "refused")
METRICS = ("em", "f1", "bleu1")  # those of the paper's tables, as its harness computes them

_GREEDY_KEY = 0  # greedy decoding draws nothing; the sampler wants a key all the same


class Memories(NamedTuple):
    """C banks as numpy, leading axis C, and how many operations of each of OPERATIONS made them."""

    banks: MemoryBank
    operations: dict[str, int]


@dataclass(frozen=True)
class Answer:
    """One question, what the Answer Agent made of it, and what that is worth.

    conversation, number: where the question stands in the `Conversation`s; category: the data set's own number;
    memories: the lines it was shown, "text | date", in the order of the prompt; response: all that it wrote;
    prediction: the answer read out of the response, "" where it was never finished;
    evidence_recall: the share of the gold evidence whose text was shown word for word, None for a question without evidence;
    scores: from 0 to 1, by name: those of METRICS, "f1_squad", over normalised words that may repeat, and those of a judge;
    evidence: what was said that the answer rests on.
    """

    conversation: int
    number: int
    category: int
    question: str
    gold: str
    memories: tuple[str, ...]
    response: str
    prediction: str
    response_tokens: int
    evidence_recall: float | None
    scores: dict[str, float]
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True)
class Judged:
    """What `judge` made of a row. judge: its name and the version of its prompts; means: in percent, by metric; garbage: replies that were
    no verdict, by prompt."""

    judge: str
    means: dict[str, float]
    garbage: dict[str, int]


@dataclass(frozen=True)
class Row:
    """One row of the table: em, f1, bleu1 in percent, and the 95 % interval of each; bank_fill and evidence_recall from 0 to 1.

    banks: what each conversation's bank holds at its end, as lines "text | date", the oldest first.
    judged: where a judge was asked; `ci95` has its intervals then.
    """

    em: float
    f1: float
    bleu1: float
    ci95: dict[str, tuple[float, float]]
    operations: dict[str, int]
    bank_fill: float
    evidence_recall: float | None
    answers: tuple[Answer, ...]
    banks: tuple[tuple[str, ...], ...] = ()
    judged: Judged | None = None


@struct.dataclass
class Replies:
    """What comes back for P questions. slot: int32[P, K]; response, answer: int32[P, R]; response_length, answer_length: int32[P]."""

    slot: Array
    response: Array
    response_length: Array
    answer: Array
    answer_length: Array


def build_banks(params: PyTree, conversations: Conversation, language: Language, config: Config, *, chunk: int = 32) -> Memories:
    """Plays C conversations (numpy, leading axis C) through the Manager with these parameters, fact by fact from an empty bank."""
    total = len(conversations.fact_length)
    chunk = min(chunk, total)
    banks, operations = [], Counter(dict.fromkeys(OPERATIONS, 0))
    for start in tqdm(range(0, total, chunk), desc="build banks", unit="chunk"):
        part = jax.tree.map(lambda x, start=start: _filled_up(x[start : start + chunk], chunk), conversations)
        bank, counts = jax.device_get(_replay(params, part, language, what_matters(config)))
        banks.append(bank)
        operations.update({name: int(counts[name]) for name in OPERATIONS})
    return Memories(jax.tree.map(lambda *parts: np.concatenate(parts)[:total], *banks), dict(operations))


def append_only_banks(conversations: Conversation, language: Language, config: Config) -> Memories:
    """ADDs every fact as it was said, without a Manager; what a full bank does with one more is `config.bank.when_full`."""
    facts = NewFact(conversations.fact_tokens, conversations.fact_length, conversations.fact_speaker, conversations.fact_time)
    said_C = np.sum(conversations.fact_length > 0, axis=1)
    added_C = np.minimum(said_C, config.bank.num_slots) if config.bank.when_full == "reject" else said_C
    counts = {"add": int(added_C.sum()), "refused": int((said_C - added_C).sum())}
    return Memories(fill_banks(facts, language.table, config.bank), dict.fromkeys(OPERATIONS, 0) | counts)


def empty_banks(conversations: Conversation, config: Config) -> Memories:
    """Remembers nothing: one empty bank a conversation."""
    total = len(conversations.fact_length)
    banks = jax.tree.map(lambda x: np.broadcast_to(x, (total, *x.shape)), init_bank(config.bank))
    return Memories(banks, dict.fromkeys(OPERATIONS, 0))


def answer_questions(
    params: PyTree, banks: MemoryBank, conversations: Conversation, language: Language, config: Config, *, chunk: int = 64
) -> list[Answer]:
    """Asks the Answer Agent with these parameters every question whose answer holds when all facts have been said.

    banks, conversations: numpy with one leading axis C. chunk: questions at a time; memory on the device grows with it, and with
    nothing else. Where retrieval reads embeddings, what the slots hold is embedded here. Raises ValueError where there is no such
    question.
    """
    asked = ask_at_end(conversations)
    if not asked:
        raise ValueError(f"none of the {len(conversations.fact_length)} conversations has a question that holds at its end")
    if config.answerer.retrieval != "lexical":
        banks = embed_banks(banks, language.table, load_encoder(config.encoder))
    text_of, answers = text_reader(language.table), []
    for start in tqdm(range(0, len(asked), chunk), desc="answer questions", unit="chunk"):
        part = asked[start : start + chunk]
        tasks = answer_tasks(banks, conversations, part + part[:1] * (chunk - len(part)))
        replies = jax.device_get(_answer(params, tasks, language, what_matters(config)))
        for place, (conversation, number) in enumerate(part):
            reply, bank, told = _at(replies, place), _at(banks, conversation), _at(conversations, conversation)
            answers.append(_read_answer(reply, bank, told, conversation, number, text_of))
    return answers


def evaluate(
    params: PyTree, memories: Memories, conversations: Conversation, language: Language, config: Config, *, seed: int, chunk: int = 64
) -> Row:
    """Asks all questions of the banks and makes a row of the table. seed: of the intervals; everything else is greedy."""
    answers = answer_questions(params, memories.banks, conversations, language, config, chunk=chunk)
    return replace(make_row(memories, answers, seed), banks=read_banks(memories.banks, conversations, language))


def make_row(memories: Memories, answers: Sequence[Answer], seed: int) -> Row:
    """Averages over all questions, each counting the same, with intervals over conversations."""
    clusters = [answer.conversation for answer in answers]
    percent = {name: [100 * answer.scores[name] for answer in answers] for name in METRICS}
    recalls = [answer.evidence_recall for answer in answers if answer.evidence_recall is not None]
    return Row(
        **{name: float(np.mean(values)) for name, values in percent.items()},
        ci95={name: bootstrap_interval(values, clusters, seed) for name, values in percent.items()},
        operations=memories.operations,
        bank_fill=float(np.mean(memories.banks.occupied)),
        evidence_recall=float(np.mean(recalls)) if recalls else None,
        answers=tuple(answers),
    )


def p_value(row: Row, other: Row, seed: int) -> float:
    """Tests whether two rows differ in exact match on the same questions; see `statistics.paired_test`."""
    asked, asked_other = ([(a.conversation, a.number) for a in each.answers] for each in (row, other))
    if asked != asked_other:
        raise ValueError(f"rows of {len(asked)} and {len(asked_other)} questions that are not the same cannot be compared in pairs")
    scores, other_scores = ([a.scores["em"] for a in each.answers] for each in (row, other))
    return paired_test(scores, other_scores, [conversation for conversation, _ in asked], seed)


def compilations() -> int:
    """Counts how often the evaluation's two programs have been compiled in this process."""
    return _replay._cache_size() + _answer._cache_size()  # type: ignore[attr-defined]


@functools.partial(jax.jit, static_argnames="config")
def _replay(params: PyTree, conversations: Conversation, language: Language, config: Config) -> tuple[MemoryBank, dict[str, Array]]:
    return replay(params, conversations, jax.random.key(_GREEDY_KEY), language, config)


@functools.partial(jax.jit, static_argnames="config")
def _answer(params: PyTree, tasks: AnswerTask, language: Language, config: Config) -> Replies:
    """Lets the Answer Agent with these parameters answer P questions, greedily; one of length 0 gets no answer."""
    agent, asked = config.answerer, tasks.question.length > 0
    reading, key = read(params, tasks, language, config), jax.random.key(_GREEDY_KEY)
    generation = respond(params, reading.cache, key, language.answerer, language, agent, config, group_size=1, sampling=GREEDY, asked=asked)
    response_PR, length_P = generation.tokens[:, 0], generation.length[:, 0]
    answer = jax.vmap(functools.partial(parse_answer, language.answerer))(response_PR, length_P)
    return Replies(reading.view.shown.slot, response_PR, length_P, answer.tokens, answer.length)


def what_matters(config: Config) -> Config:
    """Keeps what evaluation reads, so that configurations that differ in how they train share a program."""
    return Config(model=config.model, bank=config.bank, manager=config.manager, answerer=config.answerer, encoder=config.encoder)


def _filled_up(rows: np.ndarray, count: int) -> np.ndarray:
    """Adds rows of zeros up to `count`: conversations in which nobody says anything."""
    return np.concatenate([rows, np.zeros((count - len(rows), *rows.shape[1:]), rows.dtype)])


def _at(tree: PyTree, index: int) -> PyTree:
    return jax.tree.map(lambda x: x[index], tree)


def _read_answer(reply: Replies, bank: MemoryBank, told: Conversation, conversation: int, number: int, text_of: TextOf) -> Answer:
    """Turns one reply into text and scores it. `told` is the conversation, `number` the question's place in it."""
    texts, lines = _read_memories(bank, [slot for slot in reply.slot if slot != NO_SLOT], told, text_of)
    evidence = [text_of(told.fact_tokens[t], told.fact_length[t]) for t in np.flatnonzero(told.evidence[number])]
    gold = bytes(told.answer_bytes[number, : told.answer_length[number]]).decode()
    prediction = text_of(reply.answer, reply.answer_length)
    return Answer(
        conversation=conversation,
        number=number,
        category=int(told.category[number]),
        question=text_of(told.question_tokens[number], told.question_length[number]),
        gold=gold,
        memories=lines,
        response=text_of(reply.response, reply.response_length),
        prediction=prediction,
        response_tokens=int(reply.response_length),
        evidence_recall=sum(fact in texts for fact in evidence) / len(evidence) if evidence else None,
        scores={
            "em": exact_match(prediction, gold),
            "f1": f1_mem0(prediction, gold),
            "bleu1": bleu1_mem0(prediction, gold),
            "f1_squad": token_f1(prediction, gold),
        },
        evidence=tuple(evidence),
    )


def _read_memories(
    bank: MemoryBank, slots: Sequence[int] | np.ndarray, told: Conversation, text_of: TextOf
) -> tuple[list[str], tuple[str, ...]]:
    """Reads slots of one bank: their texts, and each as a line with its date."""
    texts = [text_of(bank.tokens[slot], bank.length[slot]) for slot in slots]
    dates = [text_of(told.date_tokens[time], told.date_length[time]) for time in bank.updated[slots]]
    return texts, tuple(f"{text} {DATE_MARK} {date}" for text, date in zip(texts, dates, strict=True))


def read_banks(banks: MemoryBank, conversations: Conversation, language: Language) -> tuple[tuple[str, ...], ...]:
    """Reads all that C banks hold, in the order in which it was last written."""
    text_of, lines = text_reader(language.table), []
    for place in range(len(banks.clock)):
        bank = _at(banks, place)
        occupied = np.flatnonzero(bank.occupied)
        oldest_first = occupied[np.argsort(bank.written[occupied])]
        lines.append(_read_memories(bank, oldest_first, _at(conversations, place), text_of)[1])
    return tuple(lines)
