"""What users write, before any of it reaches a prompt or a table: checked, on one line, and encoded so that no word of it is a marker."""

import datetime
import functools
import json
from collections.abc import Mapping
from typing import Any

from mr1jax.agents.prompts import MARKERS
from mr1jax.config import require
from mr1jax.data.memdial.lexicon import MONTHS
from mr1jax.text.huggingface_tokenizer import HuggingFaceTokenizer
from mr1jax.text.tokenizer import Tokenizer

MAX_TEXT = 100_000  # characters of all messages of one request
MAX_MEMORY = 10_000  # characters of one memory
MAX_NAME = 256  # characters of an id, a name or a key
MAX_METADATA = 16_384  # bytes of the JSON of one memory's metadata


def check_text(what: str, text: Any, limit: int = MAX_TEXT) -> str:
    """Returns a text on one line: every run of white space and control characters is one space.

    Raises ValueError where it is no text, blank, longer than `limit` characters, or holds half a character.
    """
    require(isinstance(text, str), f"{what} is {text!r:.60}; give a text")
    require(len(text) <= limit, f"{what} has {len(text)} characters; give it in parts of at most {limit}")
    require(_has_bytes(text), f"{what} holds half a character (a lone surrogate); send it as UTF-8")
    line = one_line(text)
    require(line != "", f"{what} is blank; give a text")
    return line


def one_line(text: str) -> str:
    """Puts a text on one line; characters that are not shown (control, line ends) separate words as spaces do."""
    return " ".join(printable(text).split())


def printable(text: str) -> str:
    """Puts a space for each character that is not shown."""
    return "".join(letter if letter.isprintable() or letter in _JOINERS else " " for letter in text)


_JOINERS = "\u200c\u200d"  # not shown by themselves, but words and emoji of some scripts are spelled with them


def check_name(what: str, name: Any) -> str:
    """Returns an id as it was given. Raises ValueError where it is no text, too long, or holds a character that is not shown."""
    require(isinstance(name, str), f"{what} is {name!r:.60}; give a text")
    require(len(name) <= MAX_NAME, f"{what} has {len(name)} characters; give at most {MAX_NAME}")
    require(name.isprintable(), f"{what} is {name!r:.60}; give it without control characters")
    return name


def check_metadata(metadata: Any) -> dict[str, Any]:
    """Returns metadata as a dict of its own. Raises ValueError where it is no JSON object, or too long."""
    if metadata is None:
        return {}
    require(isinstance(metadata, Mapping) and all(isinstance(key, str) for key in metadata), "metadata is no JSON object; give a dict")
    try:
        written = json.dumps(dict(metadata), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError("metadata holds a value that JSON has not; give texts, finite numbers, booleans, lists and dicts") from error
    require(len(written) <= MAX_METADATA, f"metadata has {len(written)} bytes as JSON; give at most {MAX_METADATA}")
    require(
        "\\u0000" not in written.decode() and _has_bytes(json.loads(written).__repr__()), "metadata holds a character that no store keeps"
    )
    return json.loads(written)


def read_time(what: str, value: str | None) -> str:
    """Returns a time in UTC as ISO 8601 with seconds; now where it is None. A time without a zone is UTC.

    Raises ValueError where it is no such time.
    """
    if value is None:
        return now()
    try:
        time = datetime.datetime.fromisoformat(value)
        time = time.replace(tzinfo=time.tzinfo or datetime.UTC).astimezone(datetime.UTC)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{what} is {value!r:.60}; give a time in ISO 8601, such as 2024-05-08T12:00:00Z") from error
    return time.isoformat(timespec="microseconds")


def now() -> str:
    """Returns the time now. All times have one form, so that they compare as texts."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")


def date_text(time: str) -> str:
    """Returns the day of a time as the data sets write it: "8 May 2023"."""
    day = datetime.datetime.fromisoformat(time)
    return f"{day.day} {MONTHS[day.month - 1]} {day.year}"


class Speller:
    """Encodes what users write. A marker that somebody writes, "**Answer:**", is spelled in letters, so that only the library writes those.

    So is what a backbone was given beside text and does not call special, "<tool_call>"; what it does, its tokenizer spells out itself.
    Texts without any of these have the tokens they were trained with.
    """

    def __init__(self, tokenizer: Tokenizer):
        pieces = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
        token_of = {piece: token for token, piece in enumerate(pieces) if len(piece) == 1}
        markers = {marker.encode() for marker in MARKERS}
        added = tokenizer.added_tokens() if isinstance(tokenizer, HuggingFaceTokenizer) else frozenset()
        marked = [token for token, piece in enumerate(pieces) if token in added or piece.strip() in markers or piece in markers]
        self._spelled = {token: [token_of[bytes([byte])] for byte in pieces[token]] for token in marked if len(pieces[token]) > 1}
        self._tokenizer = tokenizer
        self.encode = functools.lru_cache(maxsize=1 << 14)(self._encode)

    def count(self, text: str) -> int:
        """Counts the tokens of a text."""
        return len(self.encode(text))

    def _encode(self, text: str) -> tuple[int, ...]:
        tokens = self._tokenizer.encode(text)
        return tuple(spelled for token in tokens for spelled in self._spelled.get(token, (token,)))


def _has_bytes(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
