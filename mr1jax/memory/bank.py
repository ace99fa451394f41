"""The memory bank: a fixed set of slots and the only four ways to write them. Reading it is `retrieval`'s business.

Every function takes one bank and is pure; `vmap` it over many, `scan` it over time. What an unoccupied slot holds is junk: DELETE only
clears `occupied`, so every reader goes through the mask.
"""

from typing import Literal

import chex
import jax.numpy as jnp
from jax import lax

from mr1jax.config import BankConfig
from mr1jax.structs import NEVER, NO_SLOT, NO_TERM, PAD, Array, MemoryBank, Operation, OperationKind, OperationStatus

WhenFull = Literal["evict_oldest", "reject"]


def init_bank(config: BankConfig, embedding_size: int = 0) -> MemoryBank:
    """Makes an empty bank; with an `embedding` column float32[S, E] only where `embedding_size` is not 0."""
    num_slots = config.num_slots
    return MemoryBank(
        tokens=jnp.full((num_slots, config.slot_width), PAD, jnp.int32),
        length=jnp.zeros(num_slots, jnp.int32),
        occupied=jnp.zeros(num_slots, bool),
        terms=jnp.full((num_slots, config.num_terms), NO_TERM, jnp.int32),
        speaker=jnp.zeros(num_slots, jnp.int32),
        created=jnp.full(num_slots, NEVER, jnp.int32),
        updated=jnp.full(num_slots, NEVER, jnp.int32),
        written=jnp.zeros(num_slots, jnp.int32),
        clock=jnp.zeros((), jnp.int32),
        embedding=jnp.zeros((num_slots, embedding_size), jnp.float32) if embedding_size else None,
    )


def fill(bank: MemoryBank) -> Array:
    """Computes the share of occupied slots, float32[]."""
    return jnp.mean(bank.occupied, dtype=jnp.float32)


def apply_operation(bank: MemoryBank, operation: Operation, *, when_full: WhenFull) -> tuple[MemoryBank, Array]:
    """Applies one operation to one bank. Total: an impossible operation changes nothing but `clock`, and the status says why.

    ADD takes the first free slot; in a full bank it overwrites the memory written longest ago, or is rejected.
    UPDATE replaces the text and keeps the slot, `created` and `speaker`: a refined memory is still the same person's.
    DELETE clears `occupied`. NOOP always applies. A length outside 0 .. W is clipped; tokens past it are stored as PAD.

    Returns the bank after and an `OperationStatus`, int32[]. Raises ValueError where the bank has embeddings and the operation has none.
    """
    num_slots, width = bank.tokens.shape
    chex.assert_shape(operation.tokens, (width,))
    chex.assert_shape(operation.terms, bank.terms.shape[1:])
    length = jnp.clip(operation.length, 0, width)
    slot_to_add = _slot_to_add(bank)
    status = _status(bank, operation, length, slot_to_add, when_full)

    applied = status == OperationStatus.APPLIED
    adds = applied & (operation.kind == OperationKind.ADD)
    writes = applied & (operation.kind == OperationKind.UPDATE) | adds
    deletes = applied & (operation.kind == OperationKind.DELETE)
    slot = jnp.where(adds, slot_to_add, operation.slot)

    def put(column: Array, value: Array | bool, where: Array) -> Array:
        # What must not be written aims past the last slot, and is dropped: one row is touched, never the whole bank.
        return column.at[jnp.where(where, slot, num_slots)].set(value, mode="drop")

    after = MemoryBank(
        tokens=put(bank.tokens, jnp.where(jnp.arange(width) < length, operation.tokens, PAD), writes),
        length=put(bank.length, length, writes),
        occupied=put(bank.occupied, writes, writes | deletes),
        terms=put(bank.terms, operation.terms, writes),
        speaker=put(bank.speaker, operation.speaker, adds),
        created=put(bank.created, operation.time, adds),
        updated=put(bank.updated, operation.time, writes),
        written=put(bank.written, bank.clock, writes),
        clock=bank.clock + 1,
        embedding=None if bank.embedding is None else put(bank.embedding, _embedding_of(operation), writes),
    )
    return after, status


def apply_operations(bank: MemoryBank, operations: Operation, *, when_full: WhenFull) -> tuple[MemoryBank, Array]:
    """Applies operations stacked along a leading axis, in order; returns the bank after the last and the status of each, int32[...]."""
    return lax.scan(lambda state, operation: apply_operation(state, operation, when_full=when_full), bank, operations)


def fill_bank(
    config: BankConfig,
    tokens_TW: Array,
    length_T: Array,
    terms_TM: Array,
    speaker_T: Array,
    time_T: Array,
    embedding_TE: Array | None = None,
) -> MemoryBank:
    """Adds T facts in order to an empty bank. A row of length 0 is no fact and adds nothing; past capacity `config.when_full` decides."""
    operations = Operation(
        kind=jnp.full_like(length_T, OperationKind.ADD),
        slot=jnp.full_like(length_T, NO_SLOT),
        tokens=tokens_TW,
        length=length_T,
        terms=terms_TM,
        speaker=speaker_T,
        time=time_T,
        embedding=embedding_TE,
    )
    empty = init_bank(config, embedding_size=0 if embedding_TE is None else embedding_TE.shape[-1])
    return apply_operations(empty, operations, when_full=config.when_full)[0]


def _slot_to_add(bank: MemoryBank) -> Array:
    """Finds the first free slot, or in a full bank the one written longest ago: a free slot counts as written before all others."""
    return jnp.argmin(jnp.where(bank.occupied, bank.written, NEVER)).astype(jnp.int32)


def _status(bank: MemoryBank, operation: Operation, length: Array, slot_to_add: Array, when_full: WhenFull) -> Array:
    """Names the first thing that makes the operation impossible, in this order, or APPLIED."""
    kind, slot = operation.kind, operation.slot
    adds, updates, deletes = (kind == each for each in (OperationKind.ADD, OperationKind.UPDATE, OperationKind.DELETE))
    targets = updates | deletes
    faults = {
        OperationStatus.BAD_KIND: (kind < OperationKind.NOOP) | (kind > OperationKind.DELETE),
        OperationStatus.EMPTY_TEXT: (adds | updates) & (length == 0),
        OperationStatus.BAD_SLOT: targets & ((slot < 0) | (slot >= bank.occupied.size)),
        OperationStatus.EMPTY_SLOT: targets & ~bank.occupied[slot],  # a bad slot reads some other one here, but was caught above
        OperationStatus.BANK_FULL: adds & bank.occupied[slot_to_add] & (when_full == "reject"),
    }
    return jnp.select(list(faults.values()), [jnp.int32(fault) for fault in faults], jnp.int32(OperationStatus.APPLIED))


def _embedding_of(operation: Operation) -> Array:
    if operation.embedding is None:
        raise ValueError(
            "the bank has embeddings but the operation carries none; give Operation.embedding, or init_bank without embedding_size"
        )
    return operation.embedding
