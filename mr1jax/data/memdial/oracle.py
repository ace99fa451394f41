"""What is right to do with a fact of memdial, whatever the bank holds: the world knows which fact changes, ends or repeats which.

Facts about one thing are a thread: what first told it, and all that made it precise, changed, corrected, repeated or ended it. The oracle
keeps one memory a thread, the one that holds, and no chatter. It is the teacher of Memory-SFT and what a Manager's operations are held to.
"""

import random
from collections.abc import Sequence

from mr1jax.config import require
from mr1jax.data.memdial.teacher import HABITS, Choice, HeuristicManager
from mr1jax.data.records import Record


def thread(record: Record, fact: int) -> int:
    """Finds the fact that first told what this one is about, which is the name of its thread."""
    while record.facts[fact].source:
        fact = int(record.facts[fact].source)
    return fact


def about_the_same(record: Record, rows: Sequence[int], fact: int) -> list[int]:
    """Lists which of the remembered facts are of the thread of this one, in the order of `rows`."""
    return [row for row in rows if thread(record, row) == thread(record, fact)]


def oracle_choice(record: Record, rows: Sequence[int], fact: int) -> Choice:
    """Says what is right to do with a fact at a bank of the facts `rows`, in the order they were written.

        chatter                          NOOP
        new, vague, event                ADD
        change, refine, correct          UPDATE the memory of its thread, ADD where there is none
        repeat                           NOOP where a memory tells it, UPDATE where one tells what held before, ADD where there is none
        end                              DELETE the memory of its thread, NOOP where there is none

    Of several memories of one thread, as a worse Manager leaves them, the one written last is meant; a thread that ends is then not
    deleted but UPDATEd, since what is older would come to light. A vague fact is ADDed, though nobody asks about it until it is made
    precise. Raises ValueError for a fact of no kind that memdial knows.
    """
    kind, known = record.facts[fact].kind, about_the_same(record, rows, fact)
    require(kind in HABITS, f"fact {fact} of conversation {record.id} is of kind {kind!r}; the oracle knows memdial alone")
    if kind == "chatter":
        return Choice("noop")
    if kind == "repeat" and any(row >= int(record.facts[fact].source) for row in known):
        return Choice("noop")
    if kind == "end" and len(known) < 2:
        return Choice("delete", known[0]) if known else Choice("noop")
    return Choice("update", known[-1]) if known else Choice("add")


class OracleManager(HeuristicManager):
    """A bank of fact indices in the order they were written, kept by the oracle."""

    def __init__(self, record: Record, num_slots: int):
        super().__init__(record, num_slots, random.Random(0))  # nothing is drawn from it

    def choose(self, fact: int) -> Choice:
        return oracle_choice(self._record, self.rows, fact)


def oracle_banks(record: Record, num_slots: int) -> list[tuple[int, ...]]:
    """Lists the oracle's bank before each fact of a conversation, and after the last."""
    manager = OracleManager(record, num_slots)
    banks = [tuple(manager.rows)]
    for fact in range(len(record.facts)):
        manager.apply(fact, manager.choose(fact))
        banks.append(tuple(manager.rows))
    return banks
