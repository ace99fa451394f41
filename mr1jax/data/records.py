"""The common form of all data sets: a conversation as facts in the order they were said, and questions about them.

memdial generates records, the others read them from a file, TFDS stores them, `episodes` turns them into arrays.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

ALWAYS = 2**31 - 1


@dataclass(frozen=True)
class Fact:
    """One thing that was said.

    text: a sentence; speaker: index into `Record.speakers`; date: the day it was said, for display, as "8 May 2023";
    source: where it comes from in the data set; kind: what a generator knows of it ("new", "update", "chatter", ...), else "".
    """

    text: str
    speaker: int
    date: str
    source: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Question:
    """One question with its gold answer.

    category: the data set's own number; evidence: indices of the facts it rests on, ascending;
    asked_after: how many facts have been said when the answer is first known;
    valid_until: how many have been said when it stops being true (a later fact changes it): asked at any time from the one up to,
    not including, the other. ALWAYS where nothing changes it.
    """

    question: str
    answer: str
    category: int
    evidence: tuple[int, ...]
    asked_after: int
    valid_until: int = ALWAYS


@dataclass(frozen=True)
class Record:
    """One conversation between two speakers. `id` is unique in its data set."""

    id: str
    speakers: tuple[str, str]
    facts: tuple[Fact, ...]
    questions: tuple[Question, ...]


# Evidence is a flat relation of pairs: TFDS serialises a list inside a list only with TensorFlow, which we do without.
FEATURES = tfds.features.FeaturesDict(
    {
        "id": tfds.features.Text(),
        "speakers": tfds.features.Sequence(tfds.features.Text(), length=2),
        "facts": tfds.features.Sequence(
            {
                "text": tfds.features.Text(),
                "speaker": np.int32,
                "date": tfds.features.Text(),
                "source": tfds.features.Text(),
                "kind": tfds.features.Text(),
            }
        ),
        "questions": tfds.features.Sequence(
            {
                "question": tfds.features.Text(),
                "answer": tfds.features.Text(),
                "category": np.int32,
                "asked_after": np.int32,
                "valid_until": np.int32,
            }
        ),
        "evidence": tfds.features.Sequence({"question": np.int32, "fact": np.int32}),
    }
)


def to_example(record: Record) -> dict[str, Any]:
    """Turns a record into the nested dict that `FEATURES` describes: what a TFDS builder yields."""
    return {
        "id": record.id,
        "speakers": list(record.speakers),
        "facts": [vars(fact).copy() for fact in record.facts],
        "questions": [{name: value for name, value in vars(q).items() if name != "evidence"} for q in record.questions],
        "evidence": [{"question": i, "fact": fact} for i, q in enumerate(record.questions) for fact in q.evidence],
    }


def from_example(example: Mapping[str, Any]) -> Record:
    """Turns what a TFDS data source returns (columns, strings as bytes) back into the record: inverse of `to_example`."""
    pairs = list(zip(example["evidence"]["question"], example["evidence"]["fact"], strict=True))
    facts = tuple(Fact(**row) for row in _rows(example["facts"]))
    questions = tuple(
        Question(**row, evidence=tuple(int(fact) for question, fact in pairs if question == i))
        for i, row in enumerate(_rows(example["questions"]))
    )
    first, second = (_plain(name) for name in example["speakers"])
    return Record(_plain(example["id"]), (first, second), facts, questions)


def _rows(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Transposes a dict of equally long columns into a list of rows of plain Python values."""
    return [{name: _plain(value) for name, value in zip(columns, row, strict=True)} for row in zip(*columns.values(), strict=True)]


def _plain(value: Any) -> Any:
    return value.decode("utf-8") if isinstance(value, bytes) else int(value)
