"""Malformed conversations in LoCoMo's form, made from valid ones: with faults planted one by one and counted, or spoilt at random places.

A fault is planted in one of two equal conversations; the other gets what reading should make of it.
"""

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

Sample = dict[str, Any]
SPEAKERS = ("Ottilie", "Bram")
STRAY = (None, True, 5, -1.5, "", "  ", [], {}, ["x"], [[]])  # no text
WORDS = (
    "bees",
    "a quince tree",
    "Delft",
    "honey",
    "7 hives",
    "Zoë",
    "中 文",
    "🐝 swarm",
    "the harbour",
    "e\u0301t\u00e9",
    "\u200f\u0645\u0631",
)


def valid_sample(rng: random.Random) -> Sample:
    """Makes a conversation of one to three sessions of two people, with observations, and questions of categories 1 to 5."""
    conversation: Sample = {"speaker_a": SPEAKERS[0], "speaker_b": SPEAKERS[1]}
    observation: Sample = {}
    for number in range(1, rng.randint(2, 4)):
        turns = [{"speaker": rng.choice(SPEAKERS), "dia_id": f"D{number}:{k}", "text": _line(rng)} for k in range(1, rng.randint(2, 5))]
        conversation |= {f"session_{number}": turns, f"session_{number}_date_time": f"1:56 pm on {number} May, 2031"}
        observation[f"session_{number}_observation"] = {name: [[_line(rng), f"D{number}:1"]] for name in SPEAKERS}
    questions = [_question(rng, category) for category in rng.choices(range(1, 6), k=rng.randint(1, 4))]
    return {"sample_id": f"own-{rng.randrange(10**6)}", "conversation": conversation, "observation": observation, "qa": questions}


def _line(rng: random.Random) -> str:
    return f"{rng.choice(WORDS)} and {rng.choice(WORDS)}"


def _question(rng: random.Random, category: int = 4) -> Sample:
    return {"question": f"What of {_line(rng)}?", "answer": rng.choice((*WORDS, 7)), "evidence": ["D1:1"], "category": category}


# Faults that are counted --------------------------------------------------------------------------------------------------------------

Fault = Callable[[random.Random, Sample, Sample, str], None]  # what it does to the dirty and the clean one; a name nobody else has


def _add_turns(dirty: Sample, clean: Sample, turn: Any, mended: Sample | None) -> None:
    dirty["conversation"]["session_1"].append(turn)
    clean["conversation"]["session_1"] += [] if mended is None else [mended]


def turn_without_text(rng: random.Random, dirty: Sample, clean: Sample, name: str) -> None:
    turn: Any = {"speaker": rng.choice(SPEAKERS), "dia_id": f"D1:{name}", "text": rng.choice(STRAY)}
    _add_turns(dirty, clean, rng.choice((turn, {"speaker": SPEAKERS[0]}, *STRAY)), None)


def turn_of_a_stranger(rng: random.Random, dirty: Sample, clean: Sample, name: str) -> None:
    _add_turns(dirty, clean, {"speaker": rng.choice((*STRAY, "Nobody")), "dia_id": f"D1:{name}", "text": _line(rng)}, None)


def turn_without_id(rng: random.Random, dirty: Sample, clean: Sample, name: str) -> None:
    turn = {"speaker": rng.choice(SPEAKERS), "text": _line(rng)}
    bad = rng.choice((*STRAY, "D", "1:1", "D1:1", "D1:2 D1:3", "D1:" + "9" * 5000, "D\u0661:\u0661"))
    _add_turns(dirty, clean, turn | {"dia_id": bad}, turn | {"dia_id": ""})


def caption_without_text(rng: random.Random, dirty: Sample, clean: Sample, name: str) -> None:
    turn = {"speaker": rng.choice(SPEAKERS), "dia_id": f"D1:{name}", "text": _line(rng)}
    _add_turns(dirty, clean, turn | {"blip_caption": rng.choice(STRAY)}, turn)


def text_with_what_is_no_text(rng: random.Random, dirty: Sample, clean: Sample, name: str) -> None:
    turn = {"speaker": rng.choice(SPEAKERS), "dia_id": f"D1:{name}"}
    bad = rng.choice("\0\1\b\x1b\x7f\x9b\ud800\udbff\udc00\udfff")
    _add_turns(dirty, clean, turn | {"text": f"bees{bad}honey"}, turn | {"text": "bees honey"})


def session_that_is_no_list(rng: random.Random, dirty: Sample, clean: Sample, name: str) -> None:
    dirty["conversation"][f"session_{name}"] = rng.choice((None, True, 5, "turns", {}))


def session_without_number(rng: random.Random, dirty: Sample, clean: Sample, name: str) -> None:
    dirty["conversation"][rng.choice(("session_0", "session_x", "session_\u0663", "session_-1")) + name] = []


def session_without_date(rng: random.Random, dirty: Sample, clean: Sample, name: str) -> None:
    turns = [{"speaker": SPEAKERS[0], "dia_id": f"D{name}:1", "text": _line(rng)}]
    dirty["conversation"] |= {f"session_{name}": turns, f"session_{name}_date_time": rng.choice((*STRAY, "1:56 pm on ", ","))}
    clean["conversation"] |= {f"session_{name}": turns, f"session_{name}_date_time": "unknown day"}
    clean["observation"][f"session_{name}_observation"] = {}


def observations_about_a_stranger(rng: random.Random, dirty: Sample, clean: Sample, name: str) -> None:
    dirty["observation"]["session_1_observation"][f"Nobody {name}"] = [["Nobody likes honey", "D1:1"]]


def observation_without_text(rng: random.Random, dirty: Sample, clean: Sample, name: str) -> None:
    bad = rng.choice((*STRAY, ["bees"], ["bees", "D1:1", "D1:1"], [rng.choice(STRAY), "D1:1"]))
    dirty["observation"]["session_1_observation"][rng.choice(SPEAKERS)].append(bad)


def observation_that_cites_nothing(rng: random.Random, dirty: Sample, clean: Sample, name: str) -> None:
    speaker, text = rng.choice(SPEAKERS), _line(rng)
    dirty["observation"]["session_1_observation"][speaker].append([text, rng.choice((*STRAY, "D", ["D", 5]))])
    clean["observation"]["session_1_observation"][speaker].append([text, ""])


def observations_of_no_session(rng: random.Random, dirty: Sample, clean: Sample, name: str) -> None:
    dirty["observation"][f"session_{name}_observation"] = {SPEAKERS[0]: [["Ottilie sleeps", "D1:1"]]}


def question_without_a_part(rng: random.Random, dirty: Sample, clean: Sample, name: str) -> None:
    texts = [value for value in STRAY if type(value) not in (int, float)]
    wrong = {"question": STRAY, "answer": (*texts, float("nan"), float("inf"), 10**5000), "category": (*STRAY[1:2], "4", 0, 6, 2**40, 4.0)}
    part = rng.choice(list(wrong))
    question: Any = _question(rng) | {part: rng.choice(wrong[part])}
    lacking = {key: value for key, value in question.items() if key != part}
    dirty["qa"].append(rng.choice((question, question, question, lacking, rng.choice(STRAY))))


def evidence_that_is_nowhere(rng: random.Random, dirty: Sample, clean: Sample, name: str) -> None:
    question = _question(rng)
    bad = rng.choice((*[["D1:1", value] for value in STRAY], ["D1:1", "D99:99"], ["D1:1", "D"], ["D1:1; D99:99"], "D1:1, D99:99"))
    dirty["qa"].append(question | {"evidence": bad})
    clean["qa"].append(question)


FAULTS: dict[Fault, str] = {
    turn_without_text: "turns without text, left out",
    turn_of_a_stranger: "turns of nobody who takes part, left out",
    turn_without_id: "turns without an id of their own, which nothing can cite now",
    caption_without_text: "captions without text, left out",
    text_with_what_is_no_text: "texts with control characters or halves of a character, now spaces",
    session_that_is_no_list: "sessions that are no list of turns, left out",
    session_without_number: "sessions without a number from 1 to 999999, left out",
    session_without_date: "sessions without a date, now of an unknown day",
    observations_about_a_stranger: "lists of observations about nobody who takes part, left out",
    observation_without_text: "observations without text, left out",
    observation_that_cites_nothing: "observations that cite no turn, now the last of their session",
    observations_of_no_session: "sessions whose observations belong to no session or are not by speaker, left out",
    question_without_a_part: "questions without text, answer or category from 1 to 5, left out",
    evidence_that_is_nowhere: "pieces of evidence that cite no turn there is, without effect",
}


def plant(rng: random.Random, dirty: Sample, clean: Sample) -> Counter[str]:
    """Plants up to six faults, some of them of one kind, and returns how many of each a reader has to report."""
    faults = rng.choices(list(FAULTS), k=rng.randint(0, 6))
    for number, fault in enumerate(faults):
        fault(rng, dirty, clean, str(100 + number))
    return Counter(FAULTS[fault] for fault in faults)
