"""Reads conversations of anyone's own in LoCoMo's form: what is malformed is put right or left out, and counted; nothing else is changed.

The dirt of the published file, badly written ids and numbers for answers, is part of the form: `reader` handles it.
"""

import json
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mr1jax.config import require
from mr1jax.data.locomo.paper import LABELS
from mr1jax.data.locomo.reader import ADVERSARIAL, FactSource, cited_turns, day_of, to_record
from mr1jax.data.records import Record

logger = logging.getLogger(__name__)
Faults = Counter[str]
UNKNOWN_DAY = "unknown day"

_SESSION = re.compile(r"session_[1-9][0-9]{0,5}")
_DATE = re.compile(rf"{_SESSION.pattern}_date_time")
_NOT_TEXT = re.compile("[\0-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff]")  # control characters but white space; halves of a character
_LARGEST = 10**18  # of a number where a text belongs


def read_conversations(path: Path, source: FactSource = "observations", captions: bool = True) -> list[Record]:
    """Reads all conversations of a JSON file; logs one warning for each kind of fault, with how often it was met.

    source, captions: as in `to_record`. Raises ValueError where the file holds no conversations, or one without anybody, a name of its
    own or a single fact.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); give a JSON file in the form of locomo10.json") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error}); give a file in the form of locomo10.json") from error
    samples, faults = mend(content)
    for fault, count in sorted(faults.items()):
        logger.warning("%s: %d %s", path, count, fault)
    return [to_record(sample, source, captions) for sample in samples]


def mend(content: Any) -> tuple[list[dict[str, Any]], Faults]:
    """Makes what JSON gave into conversations that `reader` reads without a fault.

    Returns them, and how often each kind of fault was met. Raises ValueError where there is no conversation in it.
    """
    require(
        isinstance(content, list) and len(content) > 0,
        f"the conversations are {_kind(content)}; give a list of them, each with sample_id, conversation and qa, as in locomo10.json",
    )
    faults: Faults = Counter()
    samples = [_mend_sample(sample, number, faults) for number, sample in enumerate(content, 1)]
    (name, count), *_ = Counter(sample["sample_id"] for sample in samples).most_common(1)
    require(count == 1, f"{count} conversations have the sample_id {name!r:.60}; give each its own")
    return samples, faults


def _mend_sample(sample: Any, number: int, faults: Faults) -> dict[str, Any]:
    whole = isinstance(sample, Mapping) and isinstance(sample.get("conversation"), Mapping)
    require(whole, f"conversation {number} is {_kind(sample)} without a conversation; give a dict with sample_id, conversation and qa")
    said = sample["conversation"]
    name, first, second = (_name(value, faults) for value in (sample.get("sample_id"), said.get("speaker_a"), said.get("speaker_b")))
    require(name != "", f"conversation {number} has the sample_id {_kind(sample.get('sample_id'))}; give it a text of its own")
    two = first != second and "" not in (first, second)
    require(
        two,
        f"conversation {name!r:.60} has the speakers {first!r:.60} and {second!r:.60}; give speaker_a and speaker_b two different names",
    )
    dates = {key: value for key, value in said.items() if isinstance(key, str) and _DATE.fullmatch(key)}
    sessions = _mend_sessions(said, (first, second), faults)
    dated = {f"{session}_date_time": _mend_date(dates.get(f"{session}_date_time"), faults) for session in sessions}
    known = {turn["dia_id"] for turns in sessions.values() for turn in turns}
    return {
        "sample_id": name,
        "conversation": {"speaker_a": first, "speaker_b": second, **dates, **dated, **sessions},
        "observation": _mend_observations(sample.get("observation", {}), list(sessions), (first, second), faults),
        "qa": _mend_questions(sample.get("qa"), known, faults),
    }


def _mend_sessions(said: Mapping[Any, Any], speakers: tuple[str, str], faults: Faults) -> dict[str, list[dict[str, str]]]:
    sessions: dict[str, list[dict[str, str]]] = {}
    taken: set[str] = set()
    for key, turns in said.items():
        if not isinstance(key, str) or not key.startswith("session_") or _DATE.fullmatch(key):
            continue
        if not _SESSION.fullmatch(key):
            faults["sessions without a number from 1 to 999999, left out"] += 1
        elif not isinstance(turns, list):
            faults["sessions that are no list of turns, left out"] += 1
        else:
            mended = [_mend_turn(turn, speakers, taken, faults) for turn in turns]
            sessions[key] = [turn for turn in mended if turn]
    return sessions


def _mend_date(date: Any, faults: Faults) -> str:
    text = _text(date, faults)
    if day_of(text):
        return text
    faults["sessions without a date, now of an unknown day"] += 1
    return UNKNOWN_DAY


def _mend_turn(turn: Any, speakers: tuple[str, str], taken: set[str], faults: Faults) -> dict[str, str]:
    """Returns the turn, {} where it is left out. taken: the ids of those before it."""
    turn = turn if isinstance(turn, Mapping) else {}
    text, caption = _text(turn.get("text"), faults), _text(turn.get("blip_caption"), faults)
    speaker, ids = _name(turn.get("speaker"), faults), cited_turns(_text(turn.get("dia_id"), faults))
    if "blip_caption" in turn and not caption:
        faults["captions without text, left out"] += 1
    if not text and not caption:
        faults["turns without text, left out"] += 1
        return {}
    if speaker not in speakers:
        faults["turns of nobody who takes part, left out"] += 1
        return {}
    if len(ids) != 1 or ids[0] in taken:
        faults["turns without an id of their own, which nothing can cite now"] += 1
        ids = [""]
    taken.update(ids)
    return {"speaker": speaker, "dia_id": ids[0], "text": text} | ({"blip_caption": caption} if caption else {})


def _mend_observations(by_session: Any, sessions: Sequence[str], speakers: tuple[str, str], faults: Faults) -> dict[str, Any]:
    mended: dict[str, dict[str, list]] = {f"{session}_observation": {} for session in sessions}
    if not isinstance(by_session, Mapping):
        faults["conversations whose observations are not by session, left out"] += 1
        by_session = {}
    for session, by_speaker in by_session.items():
        if session not in mended or not isinstance(by_speaker, Mapping):
            faults["sessions whose observations belong to no session or are not by speaker, left out"] += 1
            continue
        for about, pairs in by_speaker.items():
            name = _name(about, faults)
            if name not in speakers or not isinstance(pairs, list):
                faults["lists of observations about nobody who takes part, left out"] += 1
                continue
            kept = [_mend_observation(pair, faults) for pair in pairs]
            mended[session].setdefault(name, []).extend(pair for pair in kept if pair)
    return mended


def _mend_observation(pair: Any, faults: Faults) -> list[Any]:
    """Returns the observation, [] where it is left out."""
    text, citation = pair if isinstance(pair, list | tuple) and len(pair) == 2 else ("", "")
    text = _text(text, faults)
    if not text:
        faults["observations without text, left out"] += 1
        return []
    parts = [part for part in citation if isinstance(part, str)] if isinstance(citation, list) else citation
    cites = isinstance(parts, str | list) and bool(cited_turns(parts))
    if not cites:
        faults["observations that cite no turn, now the last of their session"] += 1
    return [text, parts if cites else ""]


def _mend_questions(questions: Any, known: set[str], faults: Faults) -> list[dict[str, Any]]:
    if not isinstance(questions, list):
        faults["conversations without a list of questions"] += 1
        return []
    mended = [_mend_question(qa, known, faults) for qa in questions]
    return [qa for qa in mended if qa]


def _mend_question(qa: Any, known: set[str], faults: Faults) -> dict[str, Any]:
    """Returns the question, {} where it is left out; an adversarial one, which nobody asks, with no more than its category."""
    qa = qa if isinstance(qa, Mapping) else {}
    category, answer = qa.get("category"), qa.get("answer")
    if type(category) is int and category == ADVERSARIAL:
        return {"category": category}
    if type(answer) in (int, float) and abs(answer) < _LARGEST:
        answer = str(answer)
    question, answer = _text(qa.get("question"), faults), _text(answer, faults)
    if not (question and answer and type(category) is int and category in LABELS["locomo"]):
        faults["questions without text, answer or category from 1 to 5, left out"] += 1
        return {}
    evidence = qa.get("evidence")
    evidence = [evidence] if isinstance(evidence, str) else evidence if isinstance(evidence, list) else [None]
    texts = [entry for entry in evidence if isinstance(entry, str) and cited_turns(entry)]
    unknown = sum(turn not in known for turn in cited_turns(texts)) + len(evidence) - len(texts)
    if unknown:
        faults["pieces of evidence that cite no turn there is, without effect"] += unknown
    return {"question": question, "answer": answer, "category": category, "evidence": texts}


def _text(value: Any, faults: Faults) -> str:
    """Returns a text, "" where it is none or blank; what no text can have in it becomes a space."""
    if not isinstance(value, str) or not value.strip():
        return ""
    if _NOT_TEXT.search(value):
        faults["texts with control characters or halves of a character, now spaces"] += 1
        value = _NOT_TEXT.sub(" ", value)
    return value if value.strip() else ""


def _name(value: Any, faults: Faults) -> str:
    return " ".join(_text(value, faults).split())


def _kind(value: Any) -> str:
    """Names a value in a sentence: a text by its beginning, anything else by its type, for it may be of any size."""
    return repr(value[:40]) if isinstance(value, str) else "an empty list" if value == [] else f"a {type(value).__name__}"
