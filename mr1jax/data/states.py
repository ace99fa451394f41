"""Which states the Manager trains on: a bank that somebody kept up to a turn, the fact of that turn, and the questions it can decide.

The paper has another model build the bank that precedes a turn (Memory-R1, arXiv 2508.19828, algorithm 1). In memdial the teacher's
heuristic builds it; elsewhere it holds the facts that came last. Indices of facts and questions only: tokens come later.
"""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

from mr1jax.data.memdial.teacher import HABITS, HeuristicManager, overlap
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
    """Chooses at most `count` questions that the operation at `turn` can decide, in turns from three sides.

    Those that rest on the new fact: lost where it is not written. Those that rest on the memory written longest ago: lost where a full
    bank ADDs. Those that rest on memories like the fact, which the Manager is shown: lost where it drops or overwrites the wrong one.
    Only questions that hold right after the turn and that the bank can then answer.
    """
    said = turn + 1
    known = {*rows, turn}
    valid = [
        i for i, q in enumerate(record.questions) if q.evidence and q.asked_after <= said < q.valid_until and known.issuperset(q.evidence)
    ]
    valid = rng.sample(valid, len(valid))  # ties below are broken at random: sorting keeps the order
    about_fact = [i for i in valid if turn in record.questions[i].evidence]
    held = [i for i in valid if i not in about_fact]
    at_risk = sorted(held, key=lambda i: min(rows.index(e) for e in record.questions[i].evidence))
    alike = sorted(held, key=lambda i: -max(overlap(record.facts[turn].text, record.facts[e].text) for e in record.questions[i].evidence))
    in_turns = itertools.chain.from_iterable(itertools.zip_longest(about_fact, at_risk, alike))
    return tuple(dict.fromkeys(i for i in in_turns if i is not None))[:count]


def manager_states(records: Sequence[Record], num_slots: int, num_questions: int, seed: int) -> list[ManagerState]:
    """Lists the states of all conversations in which it matters whether the fact is written.

    It does where the fact is asked about, and where the bank is full and what an ADD would overwrite is asked about.
    """
    states = []
    for number, record in enumerate(records):
        rng = random.Random(f"states/{seed}/{record.id}")
        for turn, rows in enumerate(_rows_before(record, num_slots, rng)):
            questions = linked_questions(record, rows, turn, num_questions, rng)
            at_stake = {turn, rows[0]} if len(rows) == num_slots else {turn}
            if any(at_stake.intersection(record.questions[i].evidence) for i in questions):
                states.append(ManagerState(number, rows, turn, questions))
    return states
