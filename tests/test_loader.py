"""The order of batches: decided by the seed, complete in every epoch, shared by processes, and resumable anywhere."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from mr1jax.data.episodes import EpisodeShape, encode_record
from mr1jax.data.loader import make_loader, training_data
from mr1jax.data.records import Fact, Question, Record
from mr1jax.structs import Conversation

ITEMS = list(range(10))


def as_arrays(number):
    """A pytree of two arrays that an item stands for."""
    return {"number": np.int32(number), "pair": np.array([number, -number])}


def loader(seed=0, **arguments):
    return make_loader(ITEMS, as_arrays, **{"batch_size": 2, "seed": seed, **arguments})


def take(batches, count):
    return [next(batches)["number"].tolist() for _ in range(count)]


def epochs(seed, count):
    """The order of each epoch. Batches of five divide the ten items."""
    numbers = sum(take(loader(seed, batch_size=5), 2 * count), [])
    return [numbers[10 * i : 10 * (i + 1)] for i in range(count)]


def test_items_are_transformed_and_stacked():
    """Oracle: np.stack of the transformed items."""
    batch = next(loader(batch_size=3))
    assert np.array_equal(batch["pair"], np.stack([as_arrays(number)["pair"] for number in batch["number"]]))
    assert batch["pair"].shape == (3, 2)


def test_every_epoch_has_every_item_once_in_an_order_of_its_own():
    """Oracle: sets and inequality. Two of 10! orders agree by chance once in three million."""
    orders = epochs(seed=0, count=4)
    assert all(sorted(order) == ITEMS for order in orders)
    assert len({tuple(order) for order in [ITEMS, *orders]}) == 5


def test_the_seed_decides_the_order():
    """Oracle: equality for the same seed, inequality for others."""
    assert epochs(3, 2) == epochs(3, 2)
    first = [tuple(epochs(seed, 1)[0]) for seed in range(4)]
    assert len(set(first)) == 4


def test_an_epoch_may_end_inside_a_batch():
    """Oracle: the same seed read five at a time. Nothing is dropped where batches of four run across the end of an epoch."""
    assert sum(take(loader(batch_size=4), 5), []) == sum(take(loader(batch_size=5), 4), [])


def test_a_number_of_epochs_ends_the_iteration():
    """Oracle: 2 epochs of 10 items are 6 batches of 3, and 2 items are left over."""
    batches = list(loader(batch_size=3, num_epochs=2))
    assert [len(batch["number"]) for batch in batches] == [3] * 6


def test_processes_share_each_batch():
    """Oracle: one process with the whole batch: the rows of two, the second's not side by side, are its rows, and nobody reads more."""
    read = []

    def note(number):
        read.append(number)
        return as_arrays(number)

    whole = take(loader(batch_size=4), 10)
    for rows in ([1], [0, 2, 3]):
        read.clear()
        own = make_loader(ITEMS, note, batch_size=4, seed=0, num_epochs=5, rows=rows)
        assert [batch["number"].tolist() for batch in own][:10] == [[batch[row] for row in rows] for batch in whole]
        assert len(read) == len(rows) * (50 // 4)


def test_another_process_goes_on_with_other_rows():
    """Oracle: the loader that went on. A place is one of whole batches, so that a run may continue with more processes or fewer."""
    original = loader(batch_size=4)
    take(original, 3)
    resumed = loader(batch_size=4, rows=[2, 3])
    resumed.restore(original.state())
    assert take(resumed, 5) == [batch[2:] for batch in take(original, 5)]


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_restored_cursor_continues_with_the_next_batch(steps):
    """Oracle: the loader that went on. Saved inside an epoch, at its end, and beyond it, through JSON."""
    original = loader(batch_size=3)
    take(original, steps)
    state = json.loads(json.dumps(original.state()))
    resumed = loader(batch_size=3)
    take(resumed, 2)  # a place of its own, to be forgotten
    resumed.restore(state)
    assert take(resumed, 8) == take(original, 8)


def test_restored_cursor_continues_in_another_process():
    """Oracle: the loader that went on in this process."""
    original = loader(seed=5, batch_size=3)
    take(original, 4)
    program = f"""
import numpy as np
from mr1jax.data.loader import make_loader
resumed = make_loader(list(range(10)), np.int32, batch_size=3, seed=5)
resumed.restore({original.state()})
print([next(resumed).tolist() for _ in range(6)])
"""
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert json.loads(output) == take(original, 6)


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        ({"batch_size": 3}, "the saved data cursor has batch_size 2, this run has 3; resume with the same setting"),
        ({"seed": 1}, "the saved data cursor has seed 0, this run has 1; resume with the same setting"),
    ],
)
def test_cursor_of_another_order_is_refused(other, sentence):
    """Oracle: the sentence. The same number would point at other items there."""
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        loader(**other).restore(loader().state())


@pytest.mark.parametrize("items", [[], [1, 2, 3]])
def test_no_complete_batch_is_refused(items):
    """Oracle: the sentence, with its numbers."""
    with pytest.raises(ValueError, match=f"^{len(items)} items make no batch of 4; use a smaller batch size$"):
        make_loader(items, as_arrays, batch_size=4, seed=0, num_epochs=1)


class ByteTokenizer:
    pad_id, eos_id, vocab_size = 0, 1, 258

    def encode(self, text):
        return [byte + 2 for byte in text.encode()]

    def decode(self, ids):
        return bytes(i - 2 for i in ids).decode()

    def token_bytes(self, token):
        return bytes([token - 2])


def test_training_data_are_batches_of_conversations():
    """Oracle: each record encoded by itself, found by its first fact."""
    records = [
        Record(name, ("A", "B"), (Fact(name, 0, "1 May 2030"),), (Question("Who?", name, 4, (0,), 1),)) for name in ("ann", "bo", "cleo")
    ]
    tokenizer = ByteTokenizer()
    shape = EpisodeShape.fit(records, tokenizer)
    batch = next(training_data(records, tokenizer, shape, batch_size=3, seed=0))
    assert isinstance(batch, Conversation)
    names = [tokenizer.decode(row[0][: length[0]]) for row, length in zip(batch.fact_tokens, batch.fact_length, strict=True)]
    assert sorted(names) == ["ann", "bo", "cleo"]
    for i, name in enumerate(names):
        alone = encode_record(next(record for record in records if record.id == name), tokenizer, shape)
        jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda x, i=i: x[i], batch), alone)
