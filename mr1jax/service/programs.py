"""What the service compiles: the agents of training and evaluation, for P requests at once, each with a bank of its own.

No prompt, grammar, retrieval or parser is written here: a bank is filled by `tasks.fill_one`, shown and read by `agents`.
"""

import functools
from typing import Any

import jax
from flax import struct

from mr1jax.agents import answerer, manager
from mr1jax.agents.answerer import AnswerView, AskedQuestion
from mr1jax.agents.manager import ManagerView, NewFact
from mr1jax.agents.prompts import Dates, Language
from mr1jax.agents.rollout import AnswerTask, ManagerTask, read, respond
from mr1jax.agents.tasks import fill_one
from mr1jax.config import GREEDY, Config
from mr1jax.evaluate import Replies
from mr1jax.memory.bank import apply_operations
from mr1jax.model.transformer import Cache
from mr1jax.rl.sampling import Rollout, begin, extend
from mr1jax.structs import Array, MemoryBank, PyTree
from mr1jax.text.parsing import parse_answer


@struct.dataclass
class Decisions:
    """What the Manager decided for P facts. kind, slot, status: int32[P, MAX_OPERATIONS]; tokens: int32[P, W], length: int32[P] the text of
    what is added or updated; response: int32[P, R], response_length: int32[P]."""

    kind: Array
    slot: Array
    status: Array
    tokens: Array
    length: Array
    response: Array
    response_length: Array


@struct.dataclass
class Begun:
    """P replies that are being written: what the Answer Agent is shown, what it made of that, and what it has written so far."""

    view: AnswerView
    cache: Cache
    rollout: Rollout


@functools.partial(jax.jit, static_argnames="config")
def decide(params: PyTree, rows: NewFact, fact: NewFact, dates: Dates, language: Language, config: Config) -> Decisions:
    """Shows P facts to the Manager beside the memories of `rows` [P, S], oldest first, and reads what it writes, greedily."""
    tasks = ManagerTask(bank=_fill(rows, language, config), fact=fact, questions=None, asked=None, dates=dates)
    reading = read(params, tasks, language, config)
    agent, asked = config.manager, fact.length > 0
    generation = respond(
        params, reading.cache, _key(), language.manager, language, agent, config, group_size=1, sampling=GREEDY, asked=asked
    )
    return _interpret(tasks.bank, reading.view, fact, generation.tokens[:, 0], generation.length[:, 0], language, config)


@functools.partial(jax.jit, static_argnames="config")
def begin_reply(params: PyTree, rows: NewFact, question: AskedQuestion, dates: Dates, language: Language, config: Config) -> Begun:
    """Asks the Answer Agent P questions, each of the memories of `rows` [P, S], oldest first, and lets it write one token."""
    reading = read(params, AnswerTask(_fill(rows, language, config), question, dates), language, config)
    num_tokens, drawn_by = config.answerer.response_length, _greedily(language)
    asked = question.length > 0
    rollout = begin(config.model, params, reading.cache, _key(), group_size=1, num_tokens=num_tokens, asked=asked, **drawn_by)
    return Begun(reading.view, reading.cache, rollout)


@functools.partial(jax.jit, static_argnames="config")
def extend_reply(params: PyTree, begun: Begun, until: Array, language: Language, config: Config) -> Rollout:
    """Lets it write on, up to `until` tokens, or until all have ended."""
    return extend(config.model, params, begun.cache, _key(), begun.rollout, until, **_greedily(language))


@functools.partial(jax.jit, static_argnames="config")
def show_fact(rows: NewFact, fact: NewFact, dates: Dates, language: Language, config: Config) -> ManagerView:
    """Packs the Manager's prompts alone, for a model that is elsewhere."""
    see = functools.partial(manager.observe, language=language, config=config.manager)
    return jax.vmap(see)(_fill(rows, language, config), fact, dates)


@functools.partial(jax.jit, static_argnames="config")
def show_question(rows: NewFact, question: AskedQuestion, dates: Dates, language: Language, config: Config) -> AnswerView:
    """Packs the Answer Agent's prompts alone."""
    see = functools.partial(answerer.observe, language=language, config=config.answerer)
    return jax.vmap(see)(_fill(rows, language, config), question, dates)


@functools.partial(jax.jit, static_argnames="config")
def read_decision(
    rows: NewFact, view: ManagerView, fact: NewFact, response_PR: Array, length_P: Array, language: Language, config: Config
) -> Decisions:
    """Reads what a model elsewhere wrote to the prompts of `show_fact`."""
    return _interpret(_fill(rows, language, config), view, fact, response_PR, length_P, language, config)


@jax.jit
def read_reply(view: AnswerView, response_PR: Array, length_P: Array, language: Language) -> Replies:
    """Reads what was written to the prompts of `begin_reply`, or elsewhere to those of `show_question`."""
    answer = jax.vmap(functools.partial(parse_answer, language.answerer))(response_PR, length_P)
    return Replies(view.shown.slot, response_PR, length_P, answer.tokens, answer.length)


def compilations() -> int:
    """Counts how often these programs have been compiled in this process."""
    programs = (decide, begin_reply, extend_reply, show_fact, show_question, read_decision, read_reply)
    return sum(program._cache_size() for program in programs)  # type: ignore[attr-defined]


def _key() -> Array:
    return jax.random.key(0)  # greedy decoding draws nothing; the sampler wants a key all the same


def _greedily(language: Language) -> dict[str, Any]:
    return {"grammar": language.answerer, "eos_id": language.eos_id, "sampling": GREEDY}


def _fill(rows: NewFact, language: Language, config: Config) -> MemoryBank:
    return jax.vmap(lambda row: fill_one(row, language.table, config.bank))(rows)


def _interpret(
    bank: MemoryBank, view: ManagerView | AnswerView, fact: NewFact, response_PR: Array, length_P: Array, language: Language, config: Config
) -> Decisions:
    def one(bank, view, fact, response_R, length):
        operations = manager.act(view, fact, response_R, length, language, config.bank.num_terms)
        # The store has room for what a full bank has not: nothing is refused for want of a slot.
        _, status = apply_operations(bank, operations, when_full="evict_oldest")
        return Decisions(operations.kind, operations.slot, status, operations.tokens[0], operations.length[0], response_R, length)

    return jax.vmap(one)(bank, view, fact, response_PR, length_P)
