"""From the JSON of LoCoMo to records, with all its dirt handled; `census` counts the dirt.

A conversation of the file is a dict with `sample_id`, `conversation` (turns by session), `observation` (sentences a machine
wrote about each session, each citing its turns) and `qa`. A turn's id is `D<session>:<turn>`, both from 1.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from mr1jax.config import require
from mr1jax.data.records import Fact, Question, Record

FactSource = Literal["observations", "turns"]
ADVERSARIAL = 5  # this category has no gold answers; the paper leaves it out (arXiv 2508.19828, section 4.1)

_TURN_ID = re.compile(r"D:?([0-9]{1,9}):([0-9]{1,9})(?![0-9])")


def split_of(sample_id: str) -> str:
    """Returns the paper's split of a conversation: one to train, one to validate, the others to test (152/81/1307 questions)."""
    return {"conv-26": "train", "conv-30": "validation"}.get(sample_id, "test")


def to_record(sample: Mapping[str, Any], source: FactSource = "observations", captions: bool = True) -> Record:
    """Turns one conversation of the file into a record; its adversarial questions are left out.

    source: "observations", what LoCoMo's own extraction wrote, or "turns", all that was said; captions: append to a turn the
    caption of the picture it shares. The evidence of a question is every fact that cites one of its turns: possibly none.
    Raises ValueError where there is no fact. A conversation that is not of the published file goes through `mend` first.
    """
    facts = tuple(_observations(sample) if source == "observations" else _turns(sample, captions))
    require(len(facts) > 0, f"conversation {sample['sample_id']!r:.60} has no {source} that can be read; give it some, or read other facts")
    citing = defaultdict(set)
    for index, fact in enumerate(facts):
        for turn in fact.source.split():
            citing[turn].add(index)
    questions = tuple(
        Question(
            question=_tidy(qa["question"]),
            answer=_tidy(qa["answer"]),
            category=qa["category"],
            evidence=tuple(sorted(set().union(*(citing[turn] for turn in cited_turns(qa["evidence"]))))),
            asked_after=len(facts),
        )
        for qa in _answerable(sample)
    )
    return Record(sample["sample_id"], _speakers(sample), facts, questions)


def cited_turns(citation: str | Sequence[str]) -> list[str]:
    """Returns the ids of all turns that a citation names.

    The file writes several ids as a list or in one string ("D8:6; D9:17"), and some ids badly ("D:11:26", "D30:05", "D").
    """
    text = citation if isinstance(citation, str) else " ".join(citation)
    return [f"D{int(session)}:{int(turn)}" for session, turn in _TURN_ID.findall(text)]


def census(samples: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Counts what the file holds and every irregularity that `to_record` puts right."""
    counts = Counter(conversations=len(samples))
    for sample in samples:
        counts.update(_census_of_conversation(sample))
        counts.update(_census_of_questions(sample))
    return dict(counts)


def _census_of_conversation(sample: Mapping[str, Any]) -> Counter[str]:
    conversation, turns = sample["conversation"], list(_turns(sample, captions=False))
    citations = [citation for by_speaker in sample["observation"].values() for pairs in by_speaker.values() for _, citation in pairs]
    sessions = sum(1 for _ in _sessions(sample))
    return Counter(
        sessions=sessions,
        dates_without_session=sum(key.endswith("_date_time") for key in conversation) - sessions,
        turns=len(turns),
        turns_with_caption=sum("blip_caption" in turn for _, _, said in _sessions(sample) for turn in said),
        observations=len(citations),
        observations_citing_a_list=sum(not isinstance(citation, str) for citation in citations),
        observations_citing_several_in_a_string=sum(isinstance(c, str) and len(cited_turns(c)) > 1 for c in citations),
    )


def _census_of_questions(sample: Mapping[str, Any]) -> Counter[str]:
    questions, known = list(_answerable(sample)), {turn.source for turn in _turns(sample, captions=False)}
    cited = [turn for qa in questions for turn in cited_turns(qa["evidence"])]
    observed = {turn for observation in _observations(sample) for turn in observation.source.split()}
    return Counter(
        questions=len(questions),
        adversarial_questions=len(sample["qa"]) - len(questions),
        repeated_questions=len(questions) - len({(qa["question"], str(qa["answer"])) for qa in questions}),
        integer_answers=sum(isinstance(qa["answer"], int) for qa in questions),
        malformed_evidence=sum(cited_turns(entry) != [entry] for qa in questions for entry in qa["evidence"]),
        unknown_turns_cited=sum(turn not in known for turn in cited),
        questions_without_evidence=sum(not known.intersection(cited_turns(qa["evidence"])) for qa in questions),
        questions_without_observation=sum(not observed.intersection(cited_turns(qa["evidence"])) for qa in questions),
    )


def _answerable(sample: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return (qa for qa in sample["qa"] if qa["category"] != ADVERSARIAL)


def _speakers(sample: Mapping[str, Any]) -> tuple[str, str]:
    return sample["conversation"]["speaker_a"], sample["conversation"]["speaker_b"]


def day_of(date_time: str) -> str:
    """Returns "8 May 2023" of "1:56 pm on 8 May, 2023", and a text without a time as it is."""
    return _tidy(date_time.rpartition(" on ")[2].replace(",", ""))


def _sessions(sample: Mapping[str, Any]) -> Iterator[tuple[int, str, list[Mapping[str, Any]]]]:
    """Yields number, date ("8 May 2023") and turns of each session. One conversation dates sessions that it does not have."""
    conversation = sample["conversation"]
    for number in sorted(int(key.removeprefix("session_")) for key in conversation if re.fullmatch(r"session_\d+", key)):
        yield number, day_of(conversation[f"session_{number}_date_time"]), conversation[f"session_{number}"]


def _turns(sample: Mapping[str, Any], captions: bool) -> Iterator[Fact]:
    speakers = _speakers(sample)
    for _, date, turns in _sessions(sample):
        for turn in turns:
            shared = f" [shares a picture: {turn['blip_caption']}]" if captions and "blip_caption" in turn else ""
            text = _tidy(f"{turn['speaker']}: {turn['text']}{shared}")
            yield Fact(text, speakers.index(turn["speaker"]), date, source=turn["dia_id"])


def _observations(sample: Mapping[str, Any]) -> Iterator[Fact]:
    """Yields the observations in the order of the first turn each one cites; the file groups them by speaker."""
    speakers = _speakers(sample)
    for number, date, _ in _sessions(sample):
        by_speaker = sample["observation"][f"session_{number}_observation"]
        cited = [(cited_turns(ids), name, text) for name, pairs in by_speaker.items() for text, ids in pairs]
        for turns, name, text in sorted(cited, key=lambda entry: _first_turn(entry[0])):
            yield Fact(_tidy(text), speakers.index(name), date, source=" ".join(turns))


def _first_turn(turns: Sequence[str]) -> float:
    return min((int(turn.split(":")[1]) for turn in turns), default=math.inf)


def _tidy(value: str | int) -> str:
    """Returns text on one line with single spaces; six answers of the file are numbers."""
    return " ".join(str(value).split())
