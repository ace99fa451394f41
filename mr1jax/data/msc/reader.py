"""From the lines of MSC-Self-Instruct to records, with their dirt handled; `census` counts the dirt.

A line is a dict with four earlier sessions in `previous_dialogs`, the fifth in `dialog`, and `self_instruct`: a question that "B" asks and
the answer that "A" gives about what was said in any of them. Nothing is dated: a session is so many days back. Who speaks is said in the
fifth session alone; in the others the two take turns. The file marks no evidence, so no recall of it can be measured.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mr1jax.data.chat import one_line, turn_facts
from mr1jax.data.records import Fact, Question, Record

SPEAKERS = ("Speaker 1", "Speaker 2")
CATEGORIES = {1: "looking back"}  # there is one kind of question
NOW = "today"  # the date of the fifth session

_LOOKING_BACK = 1


def to_record(entry: Mapping[str, Any], number: int) -> Record | None:
    """Turns one line into a record of one question, None where it has no question or no answer.

    number: of the line, from 1, as part of the id: several lines may come from one chat of MSC.
    """
    asked, answer = (one_line(_text(entry["self_instruct"].get(name))) for name in ("B", "A"))
    if not asked or not answer:
        return None
    facts = tuple(fact for session in _sessions(entry) for fact in _facts(*session))
    question = Question(asked, answer, _LOOKING_BACK, (), len(facts))
    origin = (entry.get("metadata") or {}).get("initial_data_id", "")
    return Record(f"{number}-{origin}".rstrip("-"), SPEAKERS, facts, (question,))


def census(entries: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Counts what the file holds and every irregularity that `to_record` puts right."""
    counts = Counter(lines=len(entries))
    for number, entry in enumerate(entries, 1):
        sessions = list(_sessions(entry))
        turns = [turn for _, _, said in sessions for turn in said]
        counts.update(
            sessions=len(sessions),
            sessions_without_date=sum(not date for _, date, _ in sessions),
            turns=len(turns),
            turns_without_speaker=sum(turn.get("id") not in SPEAKERS for turn in turns),
            empty_turns=sum(not one_line(_text(turn.get("text"))) for turn in turns),
            lines_without_question=int(to_record(entry, number) is None),
            answers_that_are_numbers=int(isinstance(entry["self_instruct"].get("A"), int | float)),
        )
    return dict(counts)


def _sessions(entry: Mapping[str, Any]) -> Iterator[tuple[int, str, Sequence[Mapping[str, Any]]]]:
    """Yields number, date ("7 days ago") and turns of each session, in the order of the file, which is theirs."""
    previous = entry["previous_dialogs"]
    for number, session in enumerate(previous, 1):
        yield number, one_line(session.get("time_back") or ""), session["dialog"]
    yield len(previous) + 1, NOW, entry.get("dialog") or []


def _facts(number: int, date: str, turns: Sequence[Mapping[str, Any]]) -> Iterator[Fact]:
    for place, turn in enumerate(turns):
        speaker = SPEAKERS.index(turn["id"]) if turn.get("id") in SPEAKERS else place % 2
        yield from turn_facts(_text(turn.get("text")), SPEAKERS[speaker], speaker, date, f"{number}:{place + 1}")


def _text(value: Any) -> str:
    return "" if value is None else str(value)
