"""The common form of all data sets: a conversation as facts in the order they were said, and questions about them.

memdial generates records, the others read them from a file, TFDS stores them, `episodes` turns them into arrays.
"""

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from mr1jax.config import require

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
    """One conversation between two speakers. `id` is unique in its data set.

    Raises ValueError for texts that are none or blank (an answer may be), and for numbers that point at nothing.
    """

    id: str
    speakers: tuple[str, str]
    facts: tuple[Fact, ...]
    questions: tuple[Question, ...]

    def __post_init__(self):
        require(len(self.speakers) == 2, f"conversation {self.id!r:.60} has {len(self.speakers)} speakers; give it two")
        for what, text, may_be_blank in _texts(self):
            is_text = isinstance(text, str) and (may_be_blank or text.strip() != "")
            require(is_text, f"the {what} of conversation {self.id!r:.60} is {text!r:.60}; give it a text")
            # A lone surrogate, half a character as JSON may hold it, has no bytes.
            require(text.isascii() or _has_bytes(text), f"the {what} of conversation {self.id!r:.60} holds half a character; replace it")
        for what, number, low, high in _numbers(self):
            in_range = isinstance(number, int) and not isinstance(number, bool) and low <= number <= high
            require(in_range, f"the {what} of conversation {self.id!r:.60} is {number!r:.60}; it must be a number from {low} to {high}")


def _texts(record: Record) -> Iterator[tuple[str, Any, bool]]:
    """Yields what a text is, the text, and whether it may be blank."""
    yield "id", record.id, False
    for name in record.speakers:
        yield "speaker", name, False
    for index, fact in enumerate(record.facts):
        yield f"text of fact {index}", fact.text, False
        yield f"date of fact {index}", fact.date, True
        yield f"source of fact {index}", fact.source, True
        yield f"kind of fact {index}", fact.kind, True
    for index, question in enumerate(record.questions):
        yield f"question {index}", question.question, False
        yield f"answer to question {index}", question.answer, True


def _numbers(record: Record) -> Iterator[tuple[str, Any, int, int]]:
    """Yields what a number is, the number, and from where to where it may be."""
    num_facts = len(record.facts)
    for index, fact in enumerate(record.facts):
        yield f"speaker of fact {index}", fact.speaker, 0, 1
    for index, question in enumerate(record.questions):
        yield f"category of question {index}", question.category, 0, ALWAYS
        yield f"asked_after of question {index}", question.asked_after, 0, ALWAYS  # later than all that is said: it is never asked
        yield f"valid_until of question {index}", question.valid_until, 0, ALWAYS
        next_one = 0
        for cited in question.evidence:
            yield f"evidence of question {index}", cited, next_one, num_facts - 1
            next_one = cited + 1  # they ascend


def _has_bytes(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


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
    """Turns what a TFDS data source returns (columns, strings as bytes) back into the record: inverse of `to_example`.

    Raises ValueError for anything else.
    """
    try:
        return _from_columns(example)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"this is no example of a conversation ({error!r:.200}); delete the data set and build it again") from error


def _from_columns(example: Mapping[str, Any]) -> Record:
    pairs = list(zip(example["evidence"]["question"], example["evidence"]["fact"], strict=True))
    facts = tuple(Fact(**row) for row in _rows(example["facts"]))
    questions = tuple(
        Question(**row, evidence=tuple(operator.index(fact) for question, fact in pairs if question == i))
        for i, row in enumerate(_rows(example["questions"]))
    )
    lost = [question for question, _ in pairs if not 0 <= question < len(questions)]
    require(not lost, f"evidence belongs to question {lost[0] if lost else ''} of {len(questions)}")
    first, second = (_plain(name) for name in example["speakers"])
    return Record(_plain(example["id"]), (first, second), facts, questions)


def _rows(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Transposes a dict of equally long columns into a list of rows of plain Python values."""
    return [{name: _plain(value) for name, value in zip(columns, row, strict=True)} for row in zip(*columns.values(), strict=True)]


def _plain(value: Any) -> Any:
    return value.decode("utf-8") if isinstance(value, bytes) else operator.index(value)
