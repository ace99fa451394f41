"""Batches in an order that a seed decides, from a cursor that checkpoints. A thin layer over grain."""

from collections.abc import Callable, Sequence
from typing import Any

import grain

from mr1jax.data.episodes import EpisodeShape, encode_record
from mr1jax.data.records import Record
from mr1jax.structs import PyTree
from mr1jax.text.tokenizer import Tokenizer

WHOLE = (0, 1)  # the shard of a single process: number 0 of 1


class Loader:
    """An iterator over batches whose place can be saved and restored, in this process or another."""

    def __init__(self, dataset: grain.IterDataset, identity: dict[str, int]):
        self._iterator = iter(dataset)
        self._identity = identity

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> PyTree:
        return next(self._iterator)

    def state(self) -> dict[str, Any]:
        """Returns the place and what it is a place in: a dict that JSON can hold, to be saved with the checkpoint."""
        return {**self._identity, "cursor": self._iterator.get_state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from a saved cursor: the next batch is the one that would have followed it.

        Raises ValueError if the cursor is that of other data, another seed, batch size or shard: it would point elsewhere here.
        """
        for name, value in self._identity.items():
            if state[name] != value:
                raise ValueError(f"the saved data cursor has {name} {state[name]}, this run has {value}; resume with the same setting")
        self._iterator.set_state(state["cursor"])


def make_loader(
    items: Sequence[Any],
    transform: Callable[[Any], PyTree],
    *,
    batch_size: int,
    seed: int,
    num_epochs: int | None = None,
    shard: tuple[int, int] = WHOLE,
) -> Loader:
    """Shuffles items anew each epoch, turns each into a pytree of equally shaped numpy arrays, and stacks them into batches.

    num_epochs: None for endless; shard: (index, count) of this process, for example `(jax.process_index(), jax.process_count())`.
    Processes take turns in one common order, so batches of size B in each of n processes are together the batch of size n B in one.
    An incomplete last batch is dropped; an epoch may end inside a batch. Raises ValueError where not even one batch is complete.
    """
    index, count = shard
    order = grain.MapDataset.source(items).seed(seed).shuffle().repeat(num_epochs)
    batches = order[index::count].map(transform).batch(batch_size, drop_remainder=True)
    if len(batches) == 0:
        raise ValueError(f"{len(items)} items make no batch of {batch_size} in each of {count} processes; use a smaller batch size")
    # One batch is made ahead while the device works on another: all that items in memory need.
    dataset = batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
    identity = {"items": len(items), "seed": seed, "batch_size": batch_size, "shard": index, "shards": count}
    return Loader(dataset, identity)


def training_data(
    records: Sequence[Record],
    tokenizer: Tokenizer,
    shape: EpisodeShape,
    *,
    batch_size: int,
    seed: int,
    shard: tuple[int, int] = WHOLE,
) -> Loader:
    """Loads whole conversations without end: each batch is a `Conversation` with a leading axis of `batch_size`."""
    return make_loader(records, lambda record: encode_record(record, tokenizer, shape), batch_size=batch_size, seed=seed, shard=shard)
