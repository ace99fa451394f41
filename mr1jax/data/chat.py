"""Chat messages as facts: what somebody writes in one turn may be a page, and a memory is a line.

There is no extraction of facts here, as Mem0 and Memory-R1 have a language model do it: a turn becomes the sentences that it is made of,
a few at a time, so that a slot of the bank holds each whole and nothing of a long turn is lost.
"""

import re
from collections.abc import Iterator

from mr1jax.data.records import Fact

MAX_WORDS = 24  # of a fact; about what 64 tokens of the tiny model's tokenizer hold

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


def turn_facts(text: str, name: str, speaker: int, date: str, source: str) -> Iterator[Fact]:
    """Yields a turn as facts of at most MAX_WORDS words, each after the speaker's name; none for a turn without a word."""
    for part in split_turn(text):
        yield Fact(f"{name}: {part}", speaker, date, source)


def split_sentences(text: str) -> list[str]:
    """Splits a text at the ends of sentences and lines; none for a text without a word."""
    return [sentence for sentence in _SENTENCE_END.split(text) if sentence.strip()]


def split_turn(text: str, max_words: int = MAX_WORDS) -> list[str]:
    """Splits a text at the ends of sentences and lines into parts of as many whole sentences as `max_words` words hold.

    Only a sentence that is longer than that is cut, between words. The parts joined by spaces are the words of the text.
    """
    parts: list[list[str]] = []
    for sentence in split_sentences(text):
        words = sentence.split()
        if parts and len(parts[-1]) + len(words) <= max_words:
            parts[-1] += words
        else:
            parts += [words[start : start + max_words] for start in range(0, len(words), max_words)]
    return [" ".join(part) for part in parts]


def one_line(value: str | int | float) -> str:
    """Returns text on one line with single spaces; some answers are numbers."""
    return " ".join(str(value).split())
