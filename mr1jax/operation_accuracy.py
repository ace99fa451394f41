"""How often a Manager does what memdial's oracle would do: its operations, greedy, along its own replay, at the very banks it leaves.

A memory stands for the fact that it was written for, whatever its words. The oracle is asked what is right at a bank of these facts; what
the Manager then did is read off its bank, before and after. DELETE and ADD in one response replaces a memory, and counts as UPDATE.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from mr1jax.agents.manager import MAX_OPERATIONS
from mr1jax.agents.play import decide
from mr1jax.agents.prompts import Language
from mr1jax.config import Config
from mr1jax.data.memdial.oracle import about_the_same, oracle_choice
from mr1jax.data.records import Record
from mr1jax.evaluate import OPERATIONS
from mr1jax.memory.bank import init_bank
from mr1jax.structs import Array, Conversation, MemoryBank, PyTree


@dataclass(frozen=True)
class Decision:
    """What was done with one fact. kind: of the fact, as memdial knows it; right, chosen: of OPERATIONS, what the oracle and what the
    Manager did; to_the_letter: the same kind, to a memory of the same thing, and what was written is the fact word for word."""

    kind: str
    right: str
    chosen: str
    to_the_letter: bool


@dataclass(frozen=True)
class OperationAccuracy:
    """kind: share of the facts with which the right kind of operation was done; to_the_letter: share done right in every respect;
    by_fact: `kind` over the facts of each kind that memdial knows; confusion: confusion[right][chosen], how many facts."""

    kind: float
    to_the_letter: float
    by_fact: dict[str, float]
    confusion: dict[str, dict[str, int]]


def operation_accuracy(
    params: PyTree, conversations: Conversation, records: Sequence[Record], language: Language, config: Config
) -> OperationAccuracy:
    """Plays conversations of memdial through the Manager with these parameters and compares every operation with the oracle's.

    conversations: numpy, `encode(records, start)`. Raises ValueError for facts of another data set.
    """
    decisions: list[Decision] = []
    bank_C = jax.tree.map(lambda x: np.broadcast_to(x, (len(records), *x.shape)), init_bank(config.bank))
    for t in range(conversations.fact_length.shape[1]):
        after_C, counts_C = jax.device_get(_decide(params, bank_C, conversations, t, language, config))
        for place, record in enumerate(records):
            if t < len(record.facts):
                before, after = (jax.tree.map(lambda x, place=place: x[place], bank) for bank in (bank_C, after_C))
                done = {name for name in OPERATIONS if counts_C[name][place]}
                decisions.append(_compare(record, t, before, after, done, conversations.fact_tokens[place, t]))
        bank_C = after_C
    return summarise(decisions)


def _compare(record: Record, t: int, before: MemoryBank, after: MemoryBank, done: set[str], fact_W: np.ndarray) -> Decision:
    """Holds what was done with fact t against the oracle."""
    oldest_first = sorted(np.flatnonzero(before.occupied), key=lambda slot: before.written[slot])
    fact_of = {int(slot): int(before.written[slot]) // MAX_OPERATIONS for slot in oldest_first}  # the clock counts so many a fact
    right = oracle_choice(record, list(fact_of.values()), t).kind
    chosen = "update" if {"add", "delete"} <= done else next(name for name in ("refused", *OPERATIONS) if name in done)
    written = after.occupied & (after.written >= before.clock)
    gone = [fact for slot, fact in fact_of.items() if written[slot] or not after.occupied[slot]]
    replaced = gone if chosen in ("update", "delete") else []  # what an ADD overwrites in a full bank is not its choice
    same_target = about_the_same(record, replaced, t) == replaced
    same_text = all(np.array_equal(after.tokens[slot], fact_W) for slot in np.flatnonzero(written))
    return Decision(record.facts[t].kind, right, chosen, right == chosen and same_target and same_text)


def summarise(decisions: Sequence[Decision]) -> OperationAccuracy:
    """Counts decisions, of which there must be one."""
    kinds = dict.fromkeys(decision.kind for decision in decisions)
    hits = {kind: [d.right == d.chosen for d in decisions if d.kind == kind] for kind in kinds}
    confusion = {right: dict.fromkeys(OPERATIONS, 0) for right in OPERATIONS if right != "refused"}
    for decision in decisions:
        confusion[decision.right][decision.chosen] += 1
    return OperationAccuracy(
        kind=float(np.mean([d.right == d.chosen for d in decisions])),
        to_the_letter=float(np.mean([d.to_the_letter for d in decisions])),
        by_fact={kind: float(np.mean(hit)) for kind, hit in hits.items()},
        confusion=confusion,
    )


@functools.partial(jax.jit, static_argnames="config")
def _decide(
    params: PyTree, bank_C: MemoryBank, conversations: Conversation, t: Array, language: Language, config: Config
) -> tuple[MemoryBank, dict[str, Array]]:
    return decide(params, bank_C, conversations, t, jax.random.key(0), language, config)
