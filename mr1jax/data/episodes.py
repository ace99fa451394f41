"""From records to arrays: a conversation as the fixed shapes that a compiled step reads. Host only, numpy."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from mr1jax.config import require
from mr1jax.data.records import Record
from mr1jax.structs import PAD, Conversation
from mr1jax.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class EpisodeShape:
    """The fixed shape of an encoded conversation. Widths are in tokens, save `answer_bytes`.

    A fact longer than `slot_width` is cut at its end, as a slot of the bank would cut it; `count_cut_facts` says how many.
    Everything else has to fit: a question is never cut and never dropped.
    """

    num_facts: int
    slot_width: int
    num_dates: int
    date_width: int
    num_questions: int
    question_width: int
    answer_bytes: int

    @classmethod
    def fit(cls, records: Iterable[Record], tokenizer: Tokenizer, slot_width: int | None = None) -> "EpisodeShape":
        """Returns the smallest shape that holds all records, in facts no wider than `slot_width` where it is given; there must be one."""
        texts = [_encode_texts(record, tokenizer) for record in records]
        require(len(texts) > 0, "there is no conversation to encode; give one or more")
        count = {kind: max(len(text[kind]) for text in texts) for kind in texts[0]}
        width = {kind: max((len(row) for text in texts for row in text[kind]), default=0) for kind in texts[0]}
        return cls(
            num_facts=count["facts"],
            slot_width=width["facts"] if slot_width is None else slot_width,
            num_dates=count["dates"],
            date_width=width["dates"],
            num_questions=count["questions"],
            question_width=width["questions"],
            answer_bytes=width["answers"],
        )


def encode_record(record: Record, tokenizer: Tokenizer, shape: EpisodeShape) -> Conversation:
    """Encodes a record as a `Conversation` of numpy arrays.

    Raises ValueError where it has more facts, dates or questions, or a longer date, question or answer, than `shape` holds.
    """
    texts, facts, questions = _encode_texts(record, tokenizer), record.facts, record.questions
    dates = {date: time for time, date in enumerate(_dates(record))}
    cut_facts = [row[: shape.slot_width] for row in texts["facts"]]
    fact_tokens_TW, fact_length_T = _table(f"facts of {record.id}", cut_facts, shape.num_facts, shape.slot_width)
    date_tokens_IY, date_length_I = _table(f"dates of {record.id}", texts["dates"], shape.num_dates, shape.date_width)
    question_tokens_QU, question_length_Q = _table(
        f"questions of {record.id}", texts["questions"], shape.num_questions, shape.question_width
    )
    answer_bytes_QA, answer_length_Q = _table(f"answers of {record.id}", texts["answers"], shape.num_questions, shape.answer_bytes)
    return Conversation(
        fact_tokens=fact_tokens_TW,
        fact_length=fact_length_T,
        fact_speaker=_column([fact.speaker for fact in facts], shape.num_facts),
        fact_time=_column([dates[fact.date] for fact in facts], shape.num_facts),
        date_tokens=date_tokens_IY,
        date_length=date_length_I,
        question_tokens=question_tokens_QU,
        question_length=question_length_Q,
        answer_bytes=answer_bytes_QA.astype(np.uint8),
        answer_length=answer_length_Q,
        evidence=_evidence(record, shape),
        category=_column([question.category for question in questions], shape.num_questions),
        asked_after=_column([question.asked_after for question in questions], shape.num_questions),
        valid_until=_column([question.valid_until for question in questions], shape.num_questions),
    )


def stack(conversations: Sequence[Conversation]) -> Conversation:
    """Stacks conversations of one shape along a new leading axis."""
    return jax.tree.map(lambda *arrays: np.stack(arrays), *conversations)


def count_cut_facts(records: Iterable[Record], tokenizer: Tokenizer, slot_width: int) -> int:
    """Counts the facts that lose their end in `slot_width` tokens."""
    return sum(len(tokenizer.encode(fact.text)) > slot_width for record in records for fact in record.facts)


def _dates(record: Record) -> list[str]:
    return list(dict.fromkeys(fact.date for fact in record.facts))


def _encode_texts(record: Record, tokenizer: Tokenizer) -> dict[str, list[Sequence[int]]]:
    return {
        "facts": [tokenizer.encode(fact.text) for fact in record.facts],
        "dates": [tokenizer.encode(date) for date in _dates(record)],
        "questions": [tokenizer.encode(question.question) for question in record.questions],
        "answers": [question.answer.encode() for question in record.questions],
    }


def _table(what: str, rows: Sequence[Sequence[int]], num_rows: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Lays ragged rows out as int32[num_rows, width], PAD past each length, and the lengths int32[num_rows]."""
    longest = max(map(len, rows), default=0)
    if len(rows) > num_rows or longest > width:
        raise ValueError(
            f"the {len(rows)} {what}, the longest of {longest}, do not fit into {num_rows} of {width}; "
            "make the shape with EpisodeShape.fit over all records"
        )
    table, length = np.full((num_rows, width), PAD, np.int32), np.zeros(num_rows, np.int32)
    for i, row in enumerate(rows):
        table[i, : len(row)] = list(row)
        length[i] = len(row)
    return table, length


def _column(values: Sequence[int], num_rows: int) -> np.ndarray:
    column = np.zeros(num_rows, np.int32)
    column[: len(values)] = values
    return column


def _evidence(record: Record, shape: EpisodeShape) -> np.ndarray:
    evidence_QT = np.zeros((shape.num_questions, shape.num_facts), bool)
    for i, question in enumerate(record.questions):
        evidence_QT[i, list(question.evidence)] = True
    return evidence_QT
