"""What is fuzzed: functions of bytes that raise where a reader does anything but read rightly or refuse in one sentence.

Bytes are the input itself, a file as JSON or safetensors, or the draws that make one: what to spoil in a conversation, what to pack.
"""

import json
import random
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mr1jax.data.locomo.mend import mend, read_conversations
from mr1jax.data.locomo.reader import to_record
from mr1jax.data.records import Record, from_example
from mr1jax.model.weights import load_metadata, load_params, save_params
from mr1jax.structs import PAD
from mr1jax.text.packing import Segment, join_rows, keep_within, pack
from reliability.dirt import valid_sample
from reliability.records import spoil, unwarned

SOURCES = ("observations", "turns")
JUNK = 999  # stands past every length, and must never come out
LENGTH, CAPACITIES, ROWS, WIDTH = 12, (5, 0, 1, 9, 3), 6, 4
Target = Callable[[bytes], None]


class Drawn(random.Random):
    """Draws what bytes say, from the first to the last, and 0 once they are used up: so a fuzzer decides what is drawn."""

    def __init__(self, data: bytes):
        super().__init__(0)
        self._data, self._place = data, 0

    def getrandbits(self, k: int) -> int:
        size = -(-k // 8)
        part = self._data[self._place : self._place + size].ljust(size, b"\0")
        self._place += size
        return int.from_bytes(part, "big") >> (8 * size - k)

    def random(self) -> float:
        return self.getrandbits(16) / 2**16


@cache
def _scratch() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory()  # it goes with the process


def _folder() -> Path:
    return Path(_scratch().name)


def _or_one_sentence(read: Callable[[], Any]) -> Any:
    """Returns what is read, None where it is refused; raises AssertionError where the refusal is no sentence for a user."""
    try:
        return read()
    except ValueError as error:
        if type(error) is not ValueError or "\n" in str(error) or "; " not in str(error) or len(str(error)) > 600:
            raise AssertionError(f"refused with {error!r}") from error
        return None


def _check_record(record: Record) -> None:
    assert all(fact.speaker in (0, 1) and fact.text.strip() and fact.text.encode() for fact in record.facts), f"{record} has a bad fact"
    evidence = [index for question in record.questions for index in question.evidence]
    assert all(0 <= index < len(record.facts) for index in evidence), f"{record} has evidence that points at nothing"


# Targets ------------------------------------------------------------------------------------------------------------------------------


def conversations_as_json(data: bytes) -> None:
    """A file in LoCoMo's form."""
    path = _folder() / "own.json"
    path.write_bytes(data)
    for source in SOURCES:
        with unwarned():
            records = _or_one_sentence(lambda source=source: read_conversations(path, source))
        for record in records or ():
            _check_record(record)


def conversations_spoilt(data: bytes) -> None:
    """A conversation that is sound but for a few places; mending what is mended finds nothing more but citations without effect."""
    rng = Drawn(data)
    content: Any = [valid_sample(random.Random(0))]
    for _ in range(rng.randint(1, 6)):
        content = spoil(rng, content)
    samples, _ = _or_one_sentence(lambda: mend(content)) or ([], None)
    for sample in samples:
        again, faults = mend([sample])
        assert again == [sample], f"{sample} is mended again"
        assert all("without effect" in fault or "cite" in fault or "questions" in fault for fault in faults), f"{faults} remained"
        for source in SOURCES:
            if record := _or_one_sentence(lambda sample=sample, source=source: to_record(sample, source)):
                _check_record(record)


def examples(data: bytes) -> None:
    """Columns as a TFDS data source gives them, spoilt in a few places."""
    rng = Drawn(data)
    content: Any = {
        "id": b"r",
        "speakers": [b"A", b"B"],
        "facts": {"text": [b"A runs", b"B naps"], "speaker": [0, 1], "date": [b"", b""], "source": [b"", b""], "kind": [b"", b""]},
        "questions": {"question": [b"Who?"], "answer": [b"A"], "category": [1], "asked_after": [2], "valid_until": [2**31 - 1]},
        "evidence": {"question": [0, 0], "fact": [0, 1]},
    }
    for _ in range(rng.randint(0, 3)):
        content = spoil(rng, content)
    if record := _or_one_sentence(lambda: from_example(content)):
        _check_record(record)


def weights(data: bytes) -> None:
    """A safetensors file, for a model that has the tensors of `weights_seed` and for none in particular."""
    path = _folder() / "own.safetensors"
    path.write_bytes(data)
    about = _or_one_sentence(lambda: load_metadata(path))
    assert about is None or all(isinstance(text, str) for pair in about.items() for text in pair), f"{about} is no metadata"
    for wanted in (None, _small_tree()):
        tree = _or_one_sentence(lambda wanted=wanted: load_params(path, wanted))
        assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(tree)), f"{tree} is no tree of arrays"
        assert tree is None or wanted is None or jax.tree.structure(tree) == jax.tree.structure(wanted), f"{tree} is of another model"


def packing(data: bytes) -> None:
    """Ragged pieces with junk past their lengths; list concatenation says what comes out."""
    rng = Drawn(data)
    pieces = [[rng.randrange(1, 900) for _ in range(rng.randint(0, capacity))] for capacity in CAPACITIES]
    rows = [[rng.randrange(1, 900) for _ in range(rng.randint(0, WIDTH))] for _ in range(ROWS)]
    rank, mask = rng.sample(range(ROWS), ROWS), [rng.random() < 0.7 for _ in range(ROWS)]
    room = rng.choice((-1, 0, rng.randint(0, 3 * ROWS), 2**31 - 1))
    kept, left = [False] * ROWS, room
    for row in sorted((row for row in range(ROWS) if mask[row]), key=lambda row: rank[row]):
        left -= len(rows[row])
        if left < 0:
            break
        kept[row] = True
    expected = sum([*pieces, *(row for row, keep in zip(rows, kept, strict=True) if keep)], [])
    tokens_L, length, kept_K = _packer()(
        [_padded(*each) for each in zip(pieces, CAPACITIES, strict=True)], _stacked(rows), rank, mask, room
    )
    assert kept_K.tolist() == kept, f"rows {kept_K.tolist()} are kept, not {kept}, of {rows} by {rank}, {mask} in {room}"
    assert tokens_L.tolist() == (expected + [PAD] * LENGTH)[:LENGTH], f"{tokens_L.tolist()} is packed of {expected}"
    assert length == min(len(expected), LENGTH), f"{length} tokens are counted of {expected}"


TARGETS: dict[str, Target] = {
    target.__name__: target for target in (conversations_as_json, conversations_spoilt, examples, weights, packing)
}


def seeds(name: str) -> list[bytes]:
    """Returns inputs of a target to begin with: sound files, and a few hundred draws."""
    if name == conversations_as_json.__name__:
        return [json.dumps([valid_sample(random.Random(seed))]).encode() for seed in range(5)]
    if name == weights.__name__:
        save_params(_folder() / "seed.safetensors", _small_tree(), {"agent": "manager"})
        return [(_folder() / "seed.safetensors").read_bytes()]
    return [random.Random(seed).randbytes(300) for seed in range(50)]


def _small_tree() -> dict[str, Any]:
    return {"layers": {"query": np.zeros((2, 3), np.float32)}, "norm": np.ones(2, np.float32)}


@cache
def _packer() -> Callable[..., Any]:
    def build(pieces, rows, rank, mask, room):
        kept_K = keep_within(rows.length, jnp.asarray(rank), jnp.asarray(mask), room)
        return *pack([*pieces, join_rows(rows.tokens, rows.length, kept_K)], LENGTH), kept_K

    return jax.jit(build)


def _padded(tokens: list[int], capacity: int) -> Segment:
    return Segment(np.asarray((tokens + [JUNK] * capacity)[:capacity], np.int32), np.int32(len(tokens)))


def _stacked(rows: list[list[int]]) -> Segment:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *[_padded(row, WIDTH) for row in rows])
