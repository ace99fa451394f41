"""The memory bank against a Python dict, and the laws that hold whatever the bank holds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from reference_bank import CONFIGS, EMBEDDING_SIZE, NUM_SLOTS, ReferenceBank, as_python, memories_of, random_operations, with_junk

from mr1jax.memory.bank import apply_operation, apply_operations, fill, fill_bank, init_bank
from mr1jax.structs import Operation, OperationKind, OperationStatus

POLICIES = list(CONFIGS)
CONTENT = ("tokens", "length", "terms", "speaker", "created", "updated", "embedding")  # all that a slot holds, save when it was written


@pytest.fixture(scope="module")
def rng():
    return np.random.default_rng(0)


@functools.partial(jax.jit, static_argnames="when_full")
def every_state(bank, operations, when_full):
    """The bank and the status after each of a sequence of operations."""

    def body(state, operation):
        state, status = apply_operation(state, operation, when_full=when_full)
        return state, (state, status)

    return jax.lax.scan(body, bank, operations)[1]


jit_apply = jax.jit(apply_operation, static_argnames="when_full")
jit_apply_all = jax.jit(apply_operations, static_argnames="when_full")


def empty_bank(policy="evict_oldest"):
    return init_bank(CONFIGS[policy], EMBEDDING_SIZE)


def half_full_bank(rng):
    """A bank with memories in slots 0, 2 and 4 and stale text in the others."""
    full = Operation(**{**vars(random_operations(rng, NUM_SLOTS)), "kind": jnp.full(NUM_SLOTS, 1), "length": jnp.full(NUM_SLOTS, 2)})
    bank, _ = jit_apply_all(empty_bank(), full, when_full="reject")
    return bank.replace(occupied=jnp.arange(NUM_SLOTS) % 2 == 0)


def one(rng, kind, slot=0):
    """One operation of the kind with a text."""
    operation = jax.tree.map(lambda field: field[0], random_operations(rng, 1))
    return operation.replace(kind=jnp.int32(kind), slot=jnp.int32(slot), length=jnp.int32(2))


def assert_same_memories(left, right):
    """Asserts that two banks hold the same, whatever their empty slots are full of."""
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), left, right)
    first, second = memories_of(stacked)
    assert first == second
    assert int(left.clock) == int(right.clock)


def assert_trees_equal(left, right):
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), left, right)


@pytest.mark.parametrize("policy", POLICIES)
def test_bank_agrees_with_a_dict(rng, policy):
    """Oracle: `ReferenceBank`, in content, occupancy, clock and status after each of 50,000 operations, legal and not."""
    oracle, bank, seen = ReferenceBank(policy), empty_bank(policy), set()
    for _ in range(10):
        operations = random_operations(rng, 5_000)
        banks, statuses = every_state(bank, operations, when_full=policy)
        states = zip(as_python(operations), memories_of(banks), statuses.tolist(), banks.clock.tolist(), strict=True)
        for operation, memories, status, clock in states:
            expected = oracle.apply(*operation)
            assert OperationStatus(status).name == expected, operation
            assert memories == oracle.memories, operation
            assert clock == oracle.clock
            seen.add(expected)
        bank = jax.tree.map(lambda leaf: leaf[-1], banks)
    possible = {status.name for status in OperationStatus} - ({"BANK_FULL"} if policy == "evict_oldest" else set())
    assert seen == possible


@pytest.mark.parametrize("policy", POLICIES)
def test_a_sequence_is_its_operations_one_by_one(rng, policy):
    """Oracle: the dict again, for `apply_operations`, and for `fill` its share of slots."""
    oracle, operations = ReferenceBank(policy), random_operations(rng, 300)
    expected = [oracle.apply(*operation) for operation in as_python(operations)]
    bank, statuses = jit_apply_all(empty_bank(policy), operations, when_full=policy)
    assert [OperationStatus(status).name for status in statuses.tolist()] == expected
    assert memories_of(jax.tree.map(lambda leaf: leaf[None], bank)) == [oracle.memories]
    assert float(fill(bank)) == pytest.approx(len(oracle.memories) / NUM_SLOTS)


@pytest.mark.parametrize("policy", POLICIES)
def test_fill_bank_adds_the_rows_that_hold_text(rng, policy):
    """Oracle: the dict, given an ADD a row; rows of length 0 are among them, and more rows than slots."""
    facts, oracle = random_operations(rng, 15), ReferenceBank(policy)
    for _, _, *fact in as_python(facts):
        oracle.apply(1, 0, *fact)
    bank = fill_bank(CONFIGS[policy], facts.tokens, facts.length, facts.terms, facts.speaker, facts.time, facts.embedding)
    assert (facts.length < 1).any()
    assert memories_of(jax.tree.map(lambda leaf: leaf[None], bank)) == [oracle.memories]


@pytest.mark.parametrize("policy", POLICIES)
def test_junk_in_empty_slots_changes_nothing(rng, policy):
    """Oracle: the same bank without junk, after each of 300 operations, from 5 random banks."""
    for _ in range(5):
        clean, _ = jit_apply_all(empty_bank(policy), random_operations(rng, 5), when_full=policy)
        operations = random_operations(rng, 300)
        expected, status = every_state(clean, operations, when_full=policy)
        spoiled, spoiled_status = every_state(with_junk(clean, rng), operations, when_full=policy)
        assert status.tolist() == spoiled_status.tolist()
        assert memories_of(spoiled) == memories_of(expected)


def test_noop_changes_only_the_clock(rng):
    """Oracle: the bank before, bit for bit, with one more on its clock."""
    bank = half_full_bank(rng)
    after, status = jit_apply(bank, one(rng, OperationKind.NOOP), when_full="reject")
    assert status == OperationStatus.APPLIED
    assert_trees_equal(after, bank.replace(clock=bank.clock + 1))


def test_an_impossible_operation_changes_only_the_clock(rng):
    """Oracle: the bank before, bit for bit, for each way to be impossible; junk included, for a masked write must not touch it either."""
    bank = half_full_bank(rng)
    full = bank.replace(occupied=jnp.ones_like(bank.occupied))
    impossible = [
        (bank, one(rng, OperationKind.UPDATE, 1), OperationStatus.EMPTY_SLOT),
        (bank, one(rng, OperationKind.DELETE, -1), OperationStatus.BAD_SLOT),
        (bank, one(rng, OperationKind.UPDATE, NUM_SLOTS), OperationStatus.BAD_SLOT),
        (full, one(rng, OperationKind.ADD), OperationStatus.BANK_FULL),
        (bank, one(rng, OperationKind.ADD).replace(length=jnp.int32(-3)), OperationStatus.EMPTY_TEXT),
        (bank, one(rng, 7), OperationStatus.BAD_KIND),
    ]
    for before, operation, expected in impossible:
        after, status = jit_apply(before, operation, when_full="reject")
        assert status == expected
        assert_trees_equal(after, before.replace(clock=before.clock + 1))


def test_update_and_delete_of_different_slots_commute(rng):
    """Oracle: algebra. The other order leaves the same content and occupancy; only the clocks of the writes differ."""
    kinds = (OperationKind.UPDATE, OperationKind.DELETE)
    for first, second in ((a, b) for a in kinds for b in kinds):
        bank, left, right = half_full_bank(rng), one(rng, first, 2), one(rng, second, 4)
        both = [
            functools.reduce(lambda state, operation: jit_apply(state, operation, when_full="reject")[0], order, bank)
            for order in ((left, right), (right, left))
        ]
        for name in ("occupied", *CONTENT):
            np.testing.assert_array_equal(getattr(both[0], name), getattr(both[1], name), err_msg=name)


def test_add_then_delete_restores_occupancy(rng):
    """Oracle: algebra. The first free slot of the bank is 1, so DELETE 1 undoes an ADD."""
    bank = half_full_bank(rng)
    added, _ = jit_apply(bank, one(rng, OperationKind.ADD), when_full="reject")
    deleted, _ = jit_apply(added, one(rng, OperationKind.DELETE, 1), when_full="reject")
    assert added.occupied.tolist() == [True, True, True, False, True, False]
    np.testing.assert_array_equal(deleted.occupied, bank.occupied)


@pytest.mark.parametrize("policy", POLICIES)
def test_vmap_is_a_loop(rng, policy):
    """Oracle: the same operations applied to one bank at a time."""
    banks, _ = every_state(empty_bank(policy), random_operations(rng, 12), when_full=policy)
    operations = random_operations(rng, 12)
    together = jax.jit(jax.vmap(functools.partial(apply_operation, when_full=policy)))(banks, operations)
    for index in range(12):
        bank, operation, expected = jax.tree.map(lambda leaf, index=index: leaf[index], (banks, operations, together))
        assert_trees_equal(jit_apply(bank, operation, when_full=policy), expected)


def test_jit_changes_nothing(rng):
    """Oracle: the same call without jit, bit for bit, for an operation of each kind."""
    bank = half_full_bank(rng)
    for kind in OperationKind:
        operation = one(rng, kind, slot=2)
        plain = apply_operation(bank, operation, when_full="evict_oldest")
        assert_trees_equal(plain, jit_apply(bank, operation, when_full="evict_oldest"))


@pytest.mark.parametrize("policy", POLICIES)
def test_types_are_exact(rng, policy):
    """Oracle: JAX's strict promotion, and the types of the bank before."""
    bank, operation = half_full_bank(rng), one(rng, OperationKind.ADD)
    with jax.numpy_dtype_promotion("strict"):
        after, status = jax.eval_shape(functools.partial(apply_operation, when_full=policy), bank, operation)
        share = jax.eval_shape(fill, bank)
    assert jax.tree.map(lambda leaf: leaf.dtype, after) == jax.tree.map(lambda leaf: leaf.dtype, bank)
    assert (status.dtype, share.dtype) == (jnp.int32, jnp.float32)


def test_a_batch_of_banks_never_crosses_devices(rng):
    """Oracle: the compiled program. Banks sharded over eight devices are written without one collective."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    banks, _ = every_state(empty_bank(), random_operations(rng, 16), when_full="reject")
    batch = jax.device_put((banks, random_operations(rng, 16)), sharding)
    apply_batch = jax.jit(jax.vmap(functools.partial(apply_operation, when_full="evict_oldest")), out_shardings=sharding)
    program = apply_batch.lower(*batch).compile().as_text()
    assert not [name for name in ("all-gather", "all-reduce", "all-to-all", "collective-permute") if name in program]


def test_a_bank_with_embeddings_asks_for_them(rng):
    """Oracle: the message, which says what is missing and how to mend it."""
    with pytest.raises(ValueError, match="give Operation.embedding, or init_bank without embedding_size"):
        apply_operation(empty_bank(), one(rng, OperationKind.ADD).replace(embedding=None), when_full="reject")
    plain = init_bank(CONFIGS["reject"])
    assert apply_operation(plain, one(rng, OperationKind.ADD), when_full="reject")[0].embedding is None
