"""What the memory bank costs: operations a second, and the time of one lexical retrieval, against the number of slots.

    python -m bench.bank

An operation costs one row whatever the number of slots, plus a look at who is free; a retrieval reads every word of the bank and sorts
the scores. A batch stands for a rollout: many banks under `vmap`, each taking its own sequence of operations.
"""

import functools
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from mr1jax.config import BankConfig
from mr1jax.memory.bank import apply_operations, init_bank
from mr1jax.memory.retrieval import bm25, retrieve
from mr1jax.structs import MemoryBank, Operation

SLOTS = (64, 1_024, 16_384, 100_000)
NUM_OPERATIONS = 256  # in one scan
BATCH = 64  # banks under vmap, where they fit
BATCH_SLOTS = 1_024  # the largest bank that is batched
NUM_RETRIEVED = 60
QUERY_WORDS = 16
VOCABULARY = 20_000  # hashed words to draw from
REPEATS = 7


def measure() -> dict[str, dict[str, float | None]]:
    """Measures every size of bank; times are medians of `REPEATS` calls of the compiled program, after one that compiles it."""
    rng = np.random.default_rng(0)
    return {f"{num_slots} slots": _measure_slots(num_slots, rng) for num_slots in SLOTS}


def _measure_slots(num_slots: int, rng: np.random.Generator) -> dict[str, float | None]:
    bank, operations = _full_bank(num_slots, rng), _random_operations(num_slots, rng)
    apply = functools.partial(apply_operations, when_full="evict_oldest")
    single = _seconds(jax.jit(apply), bank, operations)
    batched = None
    if num_slots <= BATCH_SLOTS:
        batch = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], BATCH, axis=0), (bank, operations))
        batched = _seconds(jax.jit(jax.vmap(apply)), *batch)
    query = jnp.asarray(rng.integers(1, VOCABULARY, QUERY_WORDS), jnp.int32)
    return {
        "operations_per_second": NUM_OPERATIONS / single,
        "batched_operations_per_second": BATCH * NUM_OPERATIONS / batched if batched else None,
        "retrieval_ms": 1e3 * _seconds(_search, bank, query),
    }


@jax.jit
def _search(bank: MemoryBank, query_X: jax.Array):
    return retrieve(bm25(bank.terms, bank.occupied, query_X), bank.occupied, NUM_RETRIEVED, bank.written)


def _full_bank(num_slots: int, rng: np.random.Generator) -> MemoryBank:
    """Makes a full bank of random words at once: what is in it does not change what it costs."""
    empty = init_bank(BankConfig(num_slots=num_slots))
    return empty.replace(
        occupied=jnp.ones_like(empty.occupied),
        terms=jnp.asarray(rng.integers(1, VOCABULARY, empty.terms.shape), jnp.int32),
        written=jnp.asarray(rng.permutation(num_slots), jnp.int32),
        clock=jnp.int32(num_slots),
    )


def _random_operations(num_slots: int, rng: np.random.Generator) -> Operation:
    """Draws a sequence of all four kinds."""
    config = BankConfig()

    def draw(low, high, *shape):
        return jnp.asarray(rng.integers(low, high, (NUM_OPERATIONS, *shape)), jnp.int32)

    return Operation(
        kind=draw(0, 4),
        slot=draw(0, num_slots),
        tokens=draw(1, 1_000, config.slot_width),
        length=draw(1, config.slot_width + 1),
        terms=draw(1, VOCABULARY, config.num_terms),
        speaker=draw(0, 2),
        time=draw(0, 30),
    )


def _seconds(function, *arguments) -> float:
    """Times a compiled function: the median, without the compilation."""
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    """Prints the table."""
    results = measure()
    device = jax.devices()[0]
    print(f"{device.platform} {device.device_kind}, jax {jax.__version__}; {NUM_OPERATIONS} operations a scan, {BATCH} banks a batch")
    print(f"{'slots':>14} {'operations/s':>14} {'batched':>14} {'retrieval ms':>14}")
    for name, row in results.items():
        batched = row["batched_operations_per_second"]
        print(f"{name:>14} {row['operations_per_second']:>14,.0f} {f'{batched:,.0f}' if batched else '-':>14} {row['retrieval_ms']:>14.3f}")


if __name__ == "__main__":
    main()
