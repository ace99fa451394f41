"""From the JSON of LongMemEval (arXiv 2410.10813) to records, with all its dirt handled; `census` counts the dirt.

An entry is a dict with a question, its answer, its date, and a history of its own: `haystack_sessions`, lists of turns with `role`,
`content` and, where they are the evidence, `has_answer`; with the sessions' ids and dates beside it. A question whose id ends in `_abs`
asks about what was never said, and its answer says so. In the file `oracle` a history is the evidence alone, in `s` about 40 sessions
more are put around it.
"""

import datetime
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mr1jax.config import require
from mr1jax.data.chat import one_line, turn_facts
from mr1jax.data.records import Fact, Question, Record

TYPES = (
    "single-session-user",
    "single-session-assistant",
    "single-session-preference",
    "multi-session",
    "knowledge-update",
    "temporal-reasoning",
)
UNANSWERABLE = len(TYPES)  # what is added to the number of its type, from 1, where a question has no answer
ROLES = ("user", "assistant")  # the two speakers of every record

_ABSTENTION = "_abs"
_STAMP = re.compile(r"(\d{4})[/-](\d{1,2})[/-](\d{1,2})(?:\D*?(\d{1,2}):(\d{2}))?")  # "2023/05/20 (Sat) 02:21"


def to_record(entry: Mapping[str, Any]) -> Record:
    """Turns one entry into a record of one question, its sessions in the order of their dates.

    The question says when it is asked, as it often counts from that day. Evidence is every fact of the turns that are marked as such; where
    none is, of the sessions that are; and there is none of what was never said. Raises ValueError for an unknown type, role or date.
    """
    facts, marked, in_session = [], [], []
    for session, date, turns in _sessions(entry):
        for number, turn in enumerate(turns, 1):
            added = list(_facts(turn, date, f"{session}:{number}", entry["question_id"]))
            marked += [bool(turn.get("has_answer"))] * len(added)
            in_session += [session in entry["answer_session_ids"]] * len(added)
            facts += added
    evidence = () if _is_abstention(entry) else tuple(i for i, is_one in enumerate(marked if any(marked) else in_session) if is_one)
    asked = _show(_when(entry["question_date"], entry))
    question = Question(
        question=f"{one_line(entry['question'])} (asked on {asked})",
        answer=one_line(entry["answer"]),
        category=category_of(entry),
        evidence=evidence,
        asked_after=len(facts),
    )
    return Record(str(entry["question_id"]), ROLES, tuple(facts), (question,))


def category_of(entry: Mapping[str, Any]) -> int:
    """Returns the number of a question's type in TYPES, from 1, plus UNANSWERABLE where it asks about what was never said."""
    kind = entry["question_type"]
    require(kind in TYPES, f"question {entry['question_id']} is of the type {kind!r}; LongMemEval has {', '.join(TYPES)}")
    return TYPES.index(kind) + 1 + UNANSWERABLE * _is_abstention(entry)


def is_oracle(entries: Sequence[Mapping[str, Any]]) -> bool:
    """Tells whether the histories are the evidence alone: no session of any is another than those that hold the answer."""
    return all(set(entry["haystack_session_ids"]) <= set(entry["answer_session_ids"]) for entry in entries)


def census(entries: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Counts what the file holds and every irregularity that `to_record` puts right."""
    counts = Counter(questions=len(entries))
    for entry in entries:
        sessions = list(zip(entry["haystack_dates"], entry["haystack_sessions"], strict=True))
        turns = [turn for _, session in sessions for turn in session]
        stamps = [_when(date, entry) for date, _ in sessions]
        counts.update(
            sessions=len(sessions),
            turns=len(turns),
            unanswerable=int(_is_abstention(entry)),
            answers_that_are_numbers=int(not isinstance(entry["answer"], str)),
            empty_turns=sum(not one_line(turn["content"] or "") for turn in turns),
            marked_turns=sum(bool(turn.get("has_answer")) for turn in turns),
            questions_without_marked_turn=int(not any(turn.get("has_answer") for turn in turns)),
            histories_out_of_order=int(stamps != sorted(stamps)),
        )
    return dict(counts)


def _is_abstention(entry: Mapping[str, Any]) -> bool:
    return str(entry["question_id"]).endswith(_ABSTENTION)


def _sessions(entry: Mapping[str, Any]) -> Iterator[tuple[str, str, Sequence[Mapping[str, Any]]]]:
    """Yields id, date ("20 May 2023") and turns of each session, the earliest first. The file `oracle` does not sort them."""
    columns = [entry[name] for name in ("haystack_session_ids", "haystack_dates", "haystack_sessions")]
    ids, dates, sessions = columns
    require(
        len(ids) == len(dates) == len(sessions),
        f"question {entry['question_id']} has {len(sessions)} sessions, {len(ids)} ids and {len(dates)} dates; use an unaltered copy",
    )
    whens = [_when(date, entry) for date in dates]
    for index in sorted(range(len(ids)), key=lambda index: whens[index]):
        yield ids[index], _show(whens[index]), sessions[index]


def _facts(turn: Mapping[str, Any], date: str, source: str, question: str) -> Iterator[Fact]:
    role = turn["role"]
    require(role in ROLES, f"question {question} has a turn of the role {role!r}; LongMemEval has {' and '.join(ROLES)}")
    return turn_facts(turn["content"] or "", role, ROLES.index(role), date, source)


def _when(stamp: str, entry: Mapping[str, Any]) -> datetime.datetime:
    found = _STAMP.search(str(stamp))
    try:
        return datetime.datetime(*(int(part or 0) for part in found.groups()))  # type: ignore[union-attr]
    except (AttributeError, ValueError) as error:
        raise ValueError(f"question {entry['question_id']} has the date {stamp!r}; LongMemEval writes 2023/05/20 (Sat) 02:21") from error


def _show(when: datetime.datetime) -> str:
    return f"{when.day} {when:%B} {when.year}"
