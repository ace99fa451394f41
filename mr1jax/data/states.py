"""Which states the Manager trains on: a bank that somebody kept up to a turn, the fact of that turn, and the questions it can decide.

The paper has another model build the bank that precedes a turn (Memory-R1, arXiv 2508.19828, algorithm 1). In memdial the teacher's
heuristic builds it; elsewhere it holds the facts that came last. Indices of facts and questions only: tokens come later.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from mr1jax.data.memdial.teacher import HABITS, HeuristicManager
from mr1jax.data.records import Record


@dataclass(frozen=True)
class ManagerState:
    """rows: facts in the bank, in the order they were written; fact: the one that arrives; questions: to be asked after it."""

    record: int
    rows: tuple[int, ...]
    fact: int
    questions: tuple[int, ...]


def _rows_before(record: Record, num_slots: int, rng: random.Random) -> list[tuple[int, ...]]:
    """The bank before each turn of a conversation."""
    if not all(fact.kind in HABITS for fact in record.facts):
        return [tuple(range(max(0, turn - num_slots), turn)) for turn in range(len(record.facts))]
    manager, before = HeuristicManager(record, num_slots, rng), []
    for turn in range(len(record.facts)):
        before.append(tuple(manager.rows))
        manager.apply(turn, manager.choose(turn))
    return before


def linked_questions(record: Record, rows: Sequence[int], turn: int, count: int, rng: random.Random) -> tuple[int, ...]:
    """Chooses at most `count` questions that the operation at `turn` can decide.

    First those that rest on the new fact; then those that rest on what is in the bank, the memory written longest ago first, since it is
    the one that an ADD to a full bank overwrites. Only questions whose answer holds right after the turn.
    """
    said = turn + 1
    valid = [i for i, q in enumerate(record.questions) if q.evidence and q.asked_after <= said < q.valid_until]
    about_fact = [i for i in valid if turn in record.questions[i].evidence]
    held = [i for i in valid if i not in about_fact and set(record.questions[i].evidence) <= set(rows)]
    at_risk = sorted(held, key=lambda i: (min(rows.index(e) for e in record.questions[i].evidence), rng.random()))
    oldest, rest = at_risk[: count // 2], at_risk[count // 2 :]
    return tuple([*about_fact, *oldest, *rng.sample(rest, len(rest))][:count])


def manager_states(records: Sequence[Record], num_slots: int, num_questions: int, seed: int) -> list[ManagerState]:
    """Lists the states of all conversations in which an operation can matter: the fact is asked about, or the bank is full."""
    states = []
    for number, record in enumerate(records):
        rng = random.Random(f"states/{seed}/{record.id}")
        for turn, rows in enumerate(_rows_before(record, num_slots, rng)):
            questions = linked_questions(record, rows, turn, num_questions, rng)
            decides = any(turn in record.questions[i].evidence for i in questions)
            if questions and (decides or len(rows) == num_slots):
                states.append(ManagerState(number, rows, turn, questions))
    return states
