"""The memory bank as a Python dict: the oracle of `mr1jax.memory`, and the random banks and operations to compare on.

Written from the description of the four operations, without a look at array code: no masks, no clipping by index, no sentinel rows.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from mr1jax.config import BankConfig
from mr1jax.structs import MemoryBank, Operation

NUM_SLOTS, WIDTH, NUM_TERMS, EMBEDDING_SIZE = 6, 4, 3, 2
CONFIGS = {policy: BankConfig(NUM_SLOTS, WIDTH, NUM_TERMS, policy) for policy in ("evict_oldest", "reject")}


class Memory(NamedTuple):
    """What one slot holds. `tokens` includes its padding, for the bank promises that too."""

    tokens: tuple[int, ...]
    length: int
    terms: tuple[int, ...]
    speaker: int
    created: int
    updated: int
    written: int
    embedding: tuple[float, ...]


@dataclass
class ReferenceBank:
    """A dict from slot to memory and the rules of ADD, UPDATE, DELETE and NOOP."""

    when_full: str
    memories: dict[int, Memory] = field(default_factory=dict)
    clock: int = 0

    def apply(self, kind, slot, tokens, length, terms, speaker, time, embedding) -> str:
        """Applies an operation given as Python numbers and lists; returns the name of its `OperationStatus`."""
        text = tokens[: max(length, 0)]
        row = tuple(text) + (0,) * (WIDTH - len(text))
        new = Memory(row, len(text), tuple(terms), speaker, time, time, self.clock, tuple(embedding))
        self.clock += 1
        if kind == 0:
            return "APPLIED"
        if kind == 1:
            return self._add(new)
        if kind == 2:
            return self._update(slot, new)
        if kind == 3:
            return self._delete(slot)
        return "BAD_KIND"

    def _add(self, new):
        if not new.length:
            return "EMPTY_TEXT"
        free = [slot for slot in range(NUM_SLOTS) if slot not in self.memories]
        if not free and self.when_full == "reject":
            return "BANK_FULL"
        slot = free[0] if free else min(self.memories, key=lambda slot: self.memories[slot].written)
        self.memories[slot] = new
        return "APPLIED"

    def _update(self, slot, new):
        if not new.length:
            return "EMPTY_TEXT"
        if slot not in range(NUM_SLOTS):
            return "BAD_SLOT"
        if slot not in self.memories:
            return "EMPTY_SLOT"
        old = self.memories[slot]
        self.memories[slot] = new._replace(speaker=old.speaker, created=old.created)
        return "APPLIED"

    def _delete(self, slot):
        if slot not in range(NUM_SLOTS):
            return "BAD_SLOT"
        if slot not in self.memories:
            return "EMPTY_SLOT"
        del self.memories[slot]
        return "APPLIED"


FIELDS = ("kind", "slot", "tokens", "length", "terms", "speaker", "time", "embedding")  # in the order `apply` takes them


def random_operations(rng: np.random.Generator, num: int) -> Operation:
    """Draws stacked operations, legal and not: unknown kinds, slots off both ends, lengths below 0 and above W, junk past the length."""
    return Operation(
        kind=jnp.asarray(rng.choice([0, 1, 2, 3, -1, 4], num, p=[0.1, 0.4, 0.2, 0.2, 0.05, 0.05]), jnp.int32),
        slot=jnp.asarray(rng.integers(-2, NUM_SLOTS + 2, num), jnp.int32),
        tokens=jnp.asarray(rng.integers(1, 100, (num, WIDTH)), jnp.int32),
        length=jnp.asarray(rng.integers(-1, WIDTH + 3, num), jnp.int32),
        terms=jnp.asarray(rng.integers(0, 6, (num, NUM_TERMS)), jnp.int32),
        speaker=jnp.asarray(rng.integers(0, 2, num), jnp.int32),
        time=jnp.asarray(rng.integers(0, 50, num), jnp.int32),
        embedding=jnp.asarray(rng.integers(-9, 10, (num, EMBEDDING_SIZE)), jnp.float32),
    )


def as_python(operations: Operation) -> list[tuple]:
    """Turns stacked operations into argument tuples of `ReferenceBank.apply`."""
    return list(zip(*(np.asarray(getattr(operations, name)).tolist() for name in FIELDS), strict=True))


def memories_of(banks: MemoryBank) -> list[dict[int, Memory]]:
    """Reads stacked banks as dicts, occupied slots only."""
    names = ("occupied", "tokens", "length", "terms", "speaker", "created", "updated", "written", "embedding")
    columns = (np.asarray(getattr(banks, name)).tolist() for name in names)
    return [
        {
            slot: Memory(tuple(tokens), length, tuple(terms), *numbers, tuple(embedding))
            for slot, (occupied, tokens, length, terms, *numbers, embedding) in enumerate(zip(*bank, strict=True))
            if occupied
        }
        for bank in zip(*columns, strict=True)
    ]


def with_junk(bank: MemoryBank, rng: np.random.Generator) -> MemoryBank:
    """Fills every column of the unoccupied slots with large random numbers of either sign, and NaN in the embedding."""

    def spoil(column):
        junk = rng.integers(-(2**31), 2**31, column.shape) if column.dtype == jnp.int32 else np.full(column.shape, np.nan)
        free = ~bank.occupied.reshape((-1,) + (1,) * (column.ndim - 1))
        return jnp.where(free, jnp.asarray(junk, column.dtype), column)

    names = ("tokens", "length", "terms", "speaker", "created", "updated", "written", "embedding")
    return bank.replace(**{name: spoil(getattr(bank, name)) for name in names})
