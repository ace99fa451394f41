"""Whether a test measures what was learnt rather than what was seen: splits must share no name, no answer and no wording.

`check_splits` looks at records alone, not at how they were made. Sentences are compared with names and answers masked: of "Marco's dog is
called Kirmol" stays "_'s dog is called _", and a test that says that of Theo and Fanwund has leaked.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence

from mr1jax.config import require
from mr1jax.data.memdial.world import NO_ANSWER
from mr1jax.data.records import Record

_ARTICLES = frozenset(("a", "an", "the"))
_MASK = "_"
_SHOWN = 3  # examples in an error


def sentences(record: Record) -> Iterator[str]:
    """Yields all that is said and asked in a conversation."""
    yield from (fact.text for fact in record.facts)
    yield from (question.question for question in record.questions)


def names(records: Sequence[Record]) -> set[str]:
    """Collects the speakers, and every word that is capitalised without beginning a sentence."""
    inside = {word for record in records for text in sentences(record) for word in re.findall(r"(?<=\s)[A-Z]\w+", text)}
    return inside | {speaker for record in records for speaker in record.speakers}


def answers(records: Sequence[Record]) -> set[str]:
    """Collects the gold answers, save those that stand for no value and dates, which lie in the same years for everyone."""
    return {
        question.answer
        for record in records
        for question in record.questions
        if question.answer != NO_ANSWER and question.answer not in {fact.date for fact in record.facts}
    }


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in re.findall(r"\w+|'s", text.lower()) if word not in _ARTICLES)


def _wording(text: str, values: set[str]) -> tuple[str, ...]:
    """The words of a sentence in the order of the alphabet, values masked."""
    return tuple(sorted(_MASK if word in values else word for word in _words(text)))


def shared_wordings(first: Sequence[Record], second: Sequence[Record]) -> set[str]:
    """Finds sentences of the first split that the second has too, as they are or near enough.

    Two are near enough if they are made of the same words in any order, articles and punctuation apart, names and answers masked.
    """
    values = {word for records in (first, second) for value in names(records) | answers(records) for word in _words(value)}
    in_second = {_wording(text, values) for record in second for text in sentences(record)}
    return {text for record in first for text in sentences(record) if _wording(text, values) in in_second}


def check_splits(records_by_split: Mapping[str, Sequence[Record]]) -> dict[str, dict[str, int]]:
    """Makes sure that no two splits share a name, a gold answer or a sentence, near-identical ones included.

    Returns what was compared, {split: {"conversations", "names", "answers", "sentences"}}: counts of distinct ones. Raises ValueError
    that names the two splits and what they share.
    """
    for (first, first_records), (second, second_records) in itertools.combinations(records_by_split.items(), 2):
        shared = {
            "names": names(first_records) & names(second_records),
            "answers": answers(first_records) & answers(second_records),
            "sentences": shared_wordings(first_records, second_records),
        }
        for what, leaked in shared.items():
            examples = ", ".join(repr(text) for text in sorted(leaked)[:_SHOWN])
            require(
                not leaked, f"splits {first} and {second} share {len(leaked)} {what}, such as {examples}; draw them from different ones"
            )
    return {
        split: {
            "conversations": len(records),
            "names": len(names(records)),
            "answers": len(answers(records)),
            "sentences": len({text for record in records for text in sentences(record)}),
        }
        for split, records in records_by_split.items()
    }
