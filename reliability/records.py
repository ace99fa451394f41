"""Malformed conversations and records: read with a counted warning for each fault, or refused in one clear sentence.

Oracle: for planted faults, how many there are and the conversation without them; for conversations spoilt at random, the laws of a
record, checked here anew, and its texts, which both tokenizers of the library must give back from the arrays it is encoded to.
"""

import contextlib
import copy
import json
import logging
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import small_backbone

from mr1jax.data.episodes import EpisodeShape, encode_record
from mr1jax.data.locomo.mend import mend, read_conversations
from mr1jax.data.locomo.reader import to_record
from mr1jax.data.records import FEATURES, Fact, Question, Record, from_example, to_example
from mr1jax.text.huggingface_tokenizer import HuggingFaceTokenizer
from mr1jax.text.tokenizer import SentencePieceTokenizer, Tokenizer
from reliability.dirt import plant, valid_sample
from reliability.outcome import Outcome
from reliability.sequences import SHIPPED

SOURCES = ("observations", "turns")
HUGE = 1_000_000  # characters
MANY = 20  # of so many points one is read from a file, and one goes through the bytes that TFDS stores
WRONG_NUMBERS = (*[-1, 2] * 5, 99, 2**31, -(2**63), 10**30, None, "0", 0.0, True, float("nan"))


def try_records(count: int, seed: int = 0) -> Outcome:
    """Reads `count` conversations: four in ten with planted faults, five in ten spoilt at random, one in ten records spoilt by hand."""
    rng, outcome = random.Random(seed), Outcome()
    with tempfile.TemporaryDirectory() as folder, unwarned():
        tokenizers = (SentencePieceTokenizer(SHIPPED), _byte_level_tokenizer(Path(folder)))
        for number in range(count):
            kind = number % 10
            attempt = _planted if kind < 4 else _spoilt if kind < 9 else _direct
            try:
                complaint = attempt(rng, tokenizers, Path(folder) if number % MANY in (0, 5) else None)
            except Exception as error:  # noqa: BLE001  whatever it is, it is not the sentence that a user should read
                complaint = f"raises {type(error).__name__}: {error}"[:300]
            outcome.check(not complaint, f"point {number} of seed {seed}, {attempt.__name__.strip('_')}: {complaint}")
    return outcome


@contextlib.contextmanager
def unwarned() -> Iterator[None]:
    """Keeps warnings of faults, which here come by the thousand, from being printed."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _byte_level_tokenizer(folder: Path) -> HuggingFaceTokenizer:
    small_backbone.train_tokenizer().save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return HuggingFaceTokenizer(folder)


def _planted(rng: random.Random, tokenizers: tuple[Tokenizer, ...], folder: Path | None) -> str:
    dirty = valid_sample(rng)
    clean = copy.deepcopy(dirty)
    planted = plant(rng, dirty, clean)
    samples, faults = mend([dirty])
    if faults != planted:
        return f"{dict(planted)} were planted, and {dict(faults)} are reported"
    for source in SOURCES:
        found, expected = to_record(samples[0], source), to_record(clean, source)
        if found != expected:
            return f"{found} was read, not {expected}"
    return _broken_law(to_record(clean, "turns"), rng.choice(tokenizers), folder)


def _spoilt(rng: random.Random, tokenizers: tuple[Tokenizer, ...], folder: Path | None) -> str:
    content: Any = [valid_sample(rng) for _ in range(rng.choice((1, 1, 1, 2)))]
    for _ in range(rng.randint(1, 4)):
        content = spoil(rng, content)
    source = rng.choice(SOURCES)
    return _refusal_or_law(lambda: _read(content, source, folder), rng.choice(tokenizers), folder)


def _read(content: Any, source: str, folder: Path | None) -> list[Record]:
    """Reads conversations from memory, or from a file, a few bytes of which are damaged."""
    if folder is None:
        return [to_record(sample, source) for sample in mend(content)[0]]
    try:
        data = bytearray(json.dumps(content, default=repr).encode())
    except (RecursionError, ValueError):  # what JSON cannot hold cannot stand in a file
        data = bytearray(b"[" * 10**5)
    for place in random.Random(len(data)).sample(range(len(data)), min(2, len(data))):
        data[place] = place % 256
    (folder / "own.json").write_bytes(data)
    return read_conversations(folder / "own.json", source)


def _direct(rng: random.Random, tokenizers: tuple[Tokenizer, ...], folder: Path | None) -> str:
    """Makes a record by hand with a text or a number that it may not have, or may."""
    wrong = rng.randrange(12)
    speaker, cited, after, until, category = (rng.choice(WRONG_NUMBERS) if wrong == place else 0 for place in range(5))
    texts = [any_text(rng) if wrong == place else "bees" for place in range(5, 11)]

    def make() -> list[Record]:
        question = Question(texts[2], texts[3], category, (cited,), after, until)
        return [Record(texts[4], (texts[5], "Bram"), (Fact(texts[0], speaker, texts[1]), Fact("honey", 1, "")), (question,))]

    return _refusal_or_law(make, rng.choice(tokenizers), folder)


# What must hold -----------------------------------------------------------------------------------------------------------------------


def _refusal_or_law(read: Callable[[], list[Record]], tokenizer: Tokenizer, folder: Path | None) -> str:
    try:
        records = read()
    except ValueError as error:
        said = str(error)
        clear = type(error) is ValueError and "\n" not in said and "; " in said and len(said) < 500 and said.isprintable()
        return "" if clear else f"is refused with {type(error).__name__}: {said[:300]!r}"
    return next(filter(None, (_broken_law(record, tokenizer, folder) for record in records)), "")


def _broken_law(record: Record, tokenizer: Tokenizer, folder: Path | None) -> str:
    """Says which law of a record does not hold, "" where all do."""
    num_facts = len(record.facts)
    if not all(type(fact.speaker) is int and fact.speaker in (0, 1) for fact in record.facts):
        return "a fact is said by neither speaker"
    if not all(0 <= index < num_facts and type(index) is int for question in record.questions for index in question.evidence):
        return "evidence points at no fact"
    texts = [record.id, *record.speakers, *(fact.text for fact in record.facts), *(question.question for question in record.questions)]
    if not all(text.strip() and text == text.encode().decode() for text in texts):
        return "a text is blank or has no bytes"
    conversation = encode_record(record, tokenizer, EpisodeShape.fit([record], tokenizer))
    said = [tokenizer.decode(row[:size]) for row, size in zip(conversation.fact_tokens, conversation.fact_length, strict=True)]
    asked = [tokenizer.decode(row[:size]) for row, size in zip(conversation.question_tokens, conversation.question_length, strict=True)]
    if said != [fact.text for fact in record.facts] or asked != [question.question for question in record.questions]:
        return "a text is another once encoded and decoded"
    if [tuple(np.flatnonzero(row)) for row in conversation.evidence] != [question.evidence for question in record.questions]:
        return "evidence is another once encoded"
    if folder and from_example(FEATURES.deserialize_example_np(FEATURES.serialize_example(to_example(record)))) != record:
        return "a record is another once TFDS has stored it"
    return ""


# What is tried ------------------------------------------------------------------------------------------------------------------------


def any_text(rng: random.Random) -> str:
    """Draws a text of any kind: characters of all seventeen planes, control characters, halves of characters; now and then a huge one."""
    planes = [chr(plane * 0x10000 + rng.randrange(0x10000)) for plane in rng.choices(range(17), k=rng.randint(0, 8))]
    controls = [chr(rng.randrange(0xA0)) for _ in range(rng.randint(0, 3))]
    letters = rng.choice(([*planes, *controls], planes, controls, ["D1:1"], ["session_1"], [" on "], ["bees", " "], ["</s>", "<|im_end|>"]))
    text = "".join(rng.sample(letters, len(letters)))
    return (text or "x") * (HUGE // len(text or "x")) if rng.random() > 0.998 else text


def spoil(rng: random.Random, content: Any) -> Any:
    """Replaces, removes, renames, repeats or wraps one part of a JSON value, wherever in it that is; returns the value."""
    top: Any = [content]
    holder, key = top, 0
    while isinstance(holder[key], dict | list) and holder[key] and rng.random() < 0.97:
        holder = holder[key]
        key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    action = rng.randrange(6)
    if action == 0:
        del holder[key]
    elif action == 1:
        holder[key] = [holder[key]]
    elif action == 2 and isinstance(holder, dict):
        holder[any_text(rng)] = holder.pop(key)
    elif action == 2:
        holder.append(holder[key])
    elif action == 3:
        holder[key] = any_text(rng)
    else:
        holder[key] = _junk(rng)
    return top[0] if top else None


def _junk(rng: random.Random) -> Any:
    deep: list[Any] = []
    for _ in range(5000 if rng.random() > 0.95 else 1):
        deep = [deep]
    numbers = (0, -1, 2**31, 10**30, 10**5000, 0.5, float("nan"), float("inf"))
    return rng.choice((None, True, *numbers, any_text(rng), any_text(rng), b"bytes", deep, {"": deep}, {}, [None] * 3))
