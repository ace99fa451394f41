"""Tasks to train on, gathered on the host from encoded conversations: a question to a bank, or a fact at a bank.

Everything comes back as numpy with a leading axis of tasks, ready for a loader to draw batches from.
"""

from collections.abc import Sequence

import jax
import numpy as np

from mr1jax.agents.answerer import AskedQuestion
from mr1jax.agents.manager import NewFact, text_terms
from mr1jax.agents.prompts import Dates, Language
from mr1jax.agents.rollout import AnswerTask, ManagerTask
from mr1jax.config import BankConfig, Config, require
from mr1jax.data.states import ManagerState
from mr1jax.memory.bank import fill_bank
from mr1jax.structs import Conversation, MemoryBank, PyTree
from mr1jax.text.tokenizer import ByteTable

_CHUNK = 256  # banks filled at once


def ask_at_end(conversations: Conversation) -> list[tuple[int, int]]:
    """Lists (conversation, question) of every question whose answer holds when all facts have been said."""
    num_said = np.sum(np.asarray(conversations.fact_length) > 0, axis=1)[:, None]
    real = np.asarray(conversations.question_length) > 0
    valid = real & (conversations.asked_after <= num_said) & (num_said < conversations.valid_until)
    return [(int(c), int(q)) for c, q in np.argwhere(valid)]


def answer_tasks(banks: MemoryBank, conversations: Conversation, asked: Sequence[tuple[int, int]]) -> AnswerTask:
    """Puts each asked question to the bank of its conversation; both have a leading axis of conversations."""
    of, which = np.asarray(asked, np.int32).reshape(-1, 2).T
    return AnswerTask(
        bank=jax.tree.map(lambda x: np.asarray(x)[of], banks),
        question=_questions(conversations, of, which),
        dates=Dates(conversations.date_tokens[of], conversations.date_length[of]),
    )


def manager_tasks(states: Sequence[ManagerState], conversations: Conversation, language: Language, config: Config) -> ManagerTask:
    """Lays out states with their banks filled; a state with fewer than `config.questions_per_state` questions is padded and masked.

    Facts are those from `config.lead` turns before the state's to `config.horizon` after it, of length 0 where the conversation has none.
    Raises ValueError where a lead is longer than any conversation.
    """
    T = conversations.fact_length.shape[1]
    require(config.lead < T, f"Config.lead is {config.lead}, and no conversation has more than {T} facts; use at most {T - 1}")
    of = np.asarray([state.record for state in states])
    turn = np.asarray([state.fact for state in states])
    question_nQ, asked_nQ = _padded([state.questions for state in states], config.questions_per_state)
    turn_nT = turn[:, None] + np.arange(-config.lead, min(config.horizon, T - 1) + 1)
    facts = _facts(conversations, of, np.clip(turn_nT, 0, T - 1), (turn_nT >= 0) & (turn_nT < T))
    return ManagerTask(
        bank=banks_of_facts([state.rows for state in states], of, conversations, language, config.bank),
        fact=take(facts, (slice(None), 0)),
        questions=_questions(conversations, of[:, None], question_nQ),
        asked=asked_nQ,
        dates=Dates(conversations.date_tokens[of], conversations.date_length[of]),
        later=take(facts, (slice(None), slice(1, None))) if turn_nT.shape[1] > 1 else None,
    )


def banks_of_facts(
    rows: Sequence[Sequence[int]], of: np.ndarray, conversations: Conversation, language: Language, config: BankConfig
) -> MemoryBank:
    """Fills n banks. Entry k of `rows` lists facts of conversation of[k], in the order they are written: as many as there are slots, or
    fewer. Slot i of a bank then holds the i-th of them, as it was said."""
    rows_nS, in_bank_nS = _padded(rows, config.num_slots)
    return fill_banks(_facts(conversations, of, rows_nS, in_bank_nS), language.table, config)


def fill_banks(rows: NewFact, table: ByteTable, config: BankConfig) -> MemoryBank:
    """ADDs facts [n, T] in order to n empty banks, in chunks of one shape; a fact of length 0 adds nothing."""
    total = len(rows.length)
    padded = jax.tree.map(lambda x: np.concatenate([x, np.zeros((-total % _CHUNK, *x.shape[1:]), x.dtype)]), rows)
    chunks = [take(padded, slice(start, start + _CHUNK)) for start in range(0, total, _CHUNK)]
    banks = [jax.device_get(_fill_chunk(chunk, table, config)) for chunk in chunks]
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:total], *banks)


def take(tasks: PyTree, index: int | slice | np.ndarray | tuple[slice, int | slice]) -> PyTree:
    """Reads one task of many, or several of them."""
    return jax.tree.map(lambda x: x[index], tasks)


def fill_one(rows: NewFact, table: ByteTable, config: BankConfig) -> MemoryBank:
    """ADDs T facts in order to one empty bank, inside a compiled program; a fact of length 0 adds nothing."""
    terms_TM = jax.vmap(lambda tokens, length: text_terms(table, tokens, length, config.num_terms))(rows.tokens, rows.length)
    return fill_bank(config, rows.tokens, rows.length, terms_TM, rows.speaker, rows.time)


_fill_chunk = jax.jit(jax.vmap(fill_one, in_axes=(0, None, None)), static_argnums=2)


def _facts(conversations: Conversation, of: np.ndarray, which_nT: np.ndarray, real_nT: np.ndarray) -> NewFact:
    """Reads facts of the conversations `of`, [n, T] of them, of length 0 where they are not real."""
    of_n1 = of[:, None]
    return NewFact(
        conversations.fact_tokens[of_n1, which_nT],
        np.where(real_nT, conversations.fact_length[of_n1, which_nT], 0),
        conversations.fact_speaker[of_n1, which_nT],
        conversations.fact_time[of_n1, which_nT],
    )


def _questions(conversations: Conversation, of: np.ndarray, which: np.ndarray) -> AskedQuestion:
    return AskedQuestion(
        tokens=conversations.question_tokens[of, which],
        length=conversations.question_length[of, which],
        answer=conversations.answer_bytes[of, which],
        answer_length=conversations.answer_length[of, which],
        embedding=None if conversations.question_embedding is None else conversations.question_embedding[of, which],
    )


def _padded(lists: Sequence[Sequence[int]], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Lays ragged lists out as int32[n, width], 0 past the end, and which entries are real."""
    table, real = np.zeros((len(lists), width), np.int32), np.zeros((len(lists), width), bool)
    for row, entries in enumerate(lists):
        table[row, : len(entries)], real[row, : len(entries)] = entries, True
    return table, real
