"""Whether a test measures what was learnt rather than what was seen, and what exactly a run was trained and is tested on.

memdial is generated, and its splits must share no name, no answer and no wording. `check_splits` looks at records alone, not at how they
were made. Sentences are compared with names and answers masked: of "Marco's dog is called Kirmol" stays "_'s dog is called _", and a test
that says that of Theo and Fanwund has leaked. LoCoMo is as people wrote it: there "Yes" is an answer in every split, and a leak is a
conversation, or anything said in one, that two splits have. What is nearly the same is counted in both.
"""

import hashlib
import itertools
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mr1jax.config import require
from mr1jax.data.memdial.world import NO_ANSWER
from mr1jax.data.records import Record, to_example

DATA_FILE = "data.json"  # of a run: what `describe_data` found
NEAR = 0.8  # of all runs of three words in two sentences: from this share in common on they are near-duplicates
_ARTICLES = frozenset(("a", "an", "the"))
_MASK = "_"
_SHOWN = 3  # examples in an error, and of near-duplicates
_RUN = 3  # words


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
    found = set()
    for record in records:
        dates = {fact.date for fact in record.facts}
        found |= {question.answer for question in record.questions} - dates - {NO_ANSWER}
    return found


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in re.findall(r"\w+|'s", text.lower()) if word not in _ARTICLES)


def _masked(text: str, values: set[str]) -> tuple[str, ...]:
    return tuple(_MASK if word in values else word for word in _words(text))


def _wording(text: str, values: set[str]) -> tuple[str, ...]:
    """The words of a sentence in the order of the alphabet, values masked."""
    return tuple(sorted(_masked(text, values)))


def _values(*splits: Sequence[Record]) -> set[str]:
    """The words of all names and answers."""
    return {word for records in splits for value in names(records) | answers(records) for word in _words(value)}


def shared_wordings(first: Sequence[Record], second: Sequence[Record]) -> set[str]:
    """Finds sentences of the first split that the second has too, as they are or near enough.

    Two are near enough if they are made of the same words in any order, articles and punctuation apart, names and answers masked.
    """
    values = _values(first, second)
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


def near_duplicates(first: Iterable[Sequence[str]], second: Iterable[Sequence[str]], near: float = NEAR) -> list[tuple[float, str, str]]:
    """Finds pairs of texts, given as words, whose sets A and B of runs of three words have |A & B| / |A | B| >= near.

    Returns (that share, one text, the other), the most alike first. Two sets so alike have more in common than all but the first few of
    either's rarest runs, so one of those is shared (prefix filtering: Chaudhuri, Ganti and Kaushik 2006), and few pairs are compared.
    """
    runs_of = [{" ".join(words): _runs(words) for words in texts if words} for texts in (first, second)]
    count = Counter(run for texts in runs_of for runs in texts.values() for run in runs)

    def rarest(runs: frozenset[Sequence[str]]) -> list[Sequence[str]]:
        return sorted(runs, key=lambda run: (count[run], run))[: len(runs) - math.ceil(near * len(runs)) + 1]

    having = defaultdict(list)
    for text, runs in runs_of[1].items():
        for run in rarest(runs):
            having[run].append(text)
    found = []
    for text, runs in runs_of[0].items():
        for other in {other for run in rarest(runs) for other in having[run]}:
            alike = len(runs & runs_of[1][other]) / len(runs | runs_of[1][other])
            found += [(alike, text, other)] if alike >= near else []
    return sorted(found, key=lambda pair: (-pair[0], pair[1:]))


def _runs(words: Sequence[str]) -> frozenset[Sequence[str]]:
    return frozenset(zip(*(words[start:] for start in range(_RUN)), strict=False)) or frozenset([tuple(words)])


def describe_data(data: str, records_by_split: Mapping[str, Sequence[Record]]) -> dict[str, Any]:
    """Makes sure that nothing leaks from one split of a data set into another, and describes what there is, for `data.json` of a run.

    data: "memdial", whose splits may share nothing at all (`check_splits`, and no sentence near to one of another split), or "locomo",
    whose splits may share no conversation and nothing said. Returns {"data", "splits": {split: `describe_split`}, "shared": {"train and
    test": counts of speakers, answers and questions that both have, and of near-duplicates with examples}}. Near-duplicates are sentences
    with names and answers masked in memdial, and plain ones in LoCoMo, where masking would leave little. Raises ValueError for a leak.
    """
    generated = data == "memdial"
    if generated:
        check_splits(records_by_split)
    shared = {}
    for (first, one), (second, other) in itertools.combinations(records_by_split.items(), 2):
        _require_apart(f"splits {first} and {second} of {data}", one, other)
        plain = _near_sentences(one, other, set())
        example = f", such as {plain[0][1]!r} and {plain[0][2]!r}" if plain else ""
        require(
            not (plain and generated), f"splits {first} and {second} have {len(plain)} sentences nearly in common{example}; draw others"
        )
        near = _near_sentences(one, other, _values(one, other)) if generated else plain
        shared[f"{first} and {second}"] = {
            "speakers": len(_speakers(one) & _speakers(other)),
            "answers": len(answers(one) & answers(other)),
            "questions": len(_questions(one) & _questions(other)),
            "near_duplicates": len(near),
            "examples": [list(pair[1:]) for pair in near[:_SHOWN]],
        }
    return {
        "data": data,
        "splits": {split: describe_split(records) for split, records in records_by_split.items()},
        "shared": shared,
    }


def describe_split(records: Sequence[Record]) -> dict[str, Any]:
    """Returns {"sha256" of all records, "conversations", "facts", "questions", "categories": {the data set's number: questions}}."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps(to_example(record), sort_keys=True).encode() + b"\n")
    categories = Counter(question.category for record in records for question in record.questions)
    return {
        "sha256": digest.hexdigest(),
        "conversations": len(records),
        "facts": sum(len(record.facts) for record in records),
        "questions": categories.total(),
        "categories": {str(category): categories[category] for category in sorted(categories)},
    }


def summarise(description: Mapping[str, Any]) -> str:
    """Says in one line what `describe_data` found."""
    sizes = (
        f"{split} {each['conversations']} conversations, {each['questions']} questions ({each['sha256'][:8]})"
        for split, each in description["splits"].items()
    )
    near = sum(pair["near_duplicates"] for pair in description["shared"].values())
    return f"{description['data']}: {'; '.join(sizes)}; no leak between them, {near} near-duplicates"


def _near_sentences(first: Sequence[Record], second: Sequence[Record], values: set[str]) -> list[tuple[float, str, str]]:
    return near_duplicates(*({_masked(text, values) for record in records for text in sentences(record)} for records in (first, second)))


def _require_apart(which: str, first: Sequence[Record], second: Sequence[Record]) -> None:
    """Refuses splits that share a conversation, by its id or by anything that is said in it."""
    ids = sorted({record.id for record in first} & {record.id for record in second})
    require(not ids, f"{which} share conversation {ids[0] if ids else ''}; put it in one of them")
    said = sorted(_facts(first) & _facts(second))
    require(not said, f"{which} share {len(said)} facts, such as {said[0] if said else ''!r}; put each conversation in one of them")


def _speakers(records: Sequence[Record]) -> set[str]:
    return {speaker for record in records for speaker in record.speakers}


def _facts(records: Sequence[Record]) -> set[str]:
    return {fact.text for record in records for fact in record.facts}


def _questions(records: Sequence[Record]) -> set[str]:
    return {question.question for record in records for question in record.questions}
