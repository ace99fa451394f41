"""Batches in an order that a seed decides, from a cursor that checkpoints. A thin layer over grain."""

from collections.abc import Callable, Sequence
from typing import Any

import grain

from mr1jax.data.episodes import EpisodeShape, encode_record, stack
from mr1jax.data.records import Record
from mr1jax.structs import PyTree
from mr1jax.text.tokenizer import Tokenizer


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

        Raises ValueError if the cursor is that of other data, another seed or batch size: it would point elsewhere here.
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
    rows: Sequence[int] | None = None,
) -> Loader:
    """Shuffles items anew each epoch, turns each into a pytree of equally shaped numpy arrays, and stacks them into batches.

    num_epochs: None for endless; rows: those of each batch that this process is to read, None for all. Whichever they are, the order is
    the same, and so is a place in it: where one process stopped, another may go on with other rows.
    An incomplete last batch is dropped; an epoch may end inside a batch. Raises ValueError where not even one batch is complete.
    """
    rows = range(batch_size) if rows is None else rows
    order = grain.MapDataset.source(items).seed(seed).shuffle().repeat(num_epochs)
    batches = order.batch(batch_size, drop_remainder=True, batch_fn=list).map(lambda batch: stack([transform(batch[row]) for row in rows]))
    if len(batches) == 0:
        raise ValueError(f"{len(items)} items make no batch of {batch_size}; use a smaller batch size")
    # One batch is made ahead while the device works on another: all that items in memory need.
    dataset = batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
    return Loader(dataset, {"items": len(items), "seed": seed, "batch_size": batch_size})


def training_data(
    records: Sequence[Record],
    tokenizer: Tokenizer,
    shape: EpisodeShape,
    *,
    batch_size: int,
    seed: int,
) -> Loader:
    """Loads whole conversations without end: each batch is a `Conversation` with a leading axis of `batch_size`."""
    return make_loader(records, lambda record: encode_record(record, tokenizer, shape), batch_size=batch_size, seed=seed)
