"""Data honesty, long: planted leaks are refused, clean draws pass, and near-duplicates are those that comparing every pair finds."""

import itertools
import random
from collections.abc import Callable, Sequence

from mr1jax.config import replace
from mr1jax.data.honesty import NEAR, describe_data, near_duplicates
from mr1jax.data.memdial.world import conversations
from mr1jax.data.records import Record
from reliability.outcome import Outcome

_SIZES = {"train": 12, "validation": 6, "test": 6}
_PAIRS = tuple(itertools.combinations(_SIZES, 2))
_WORDS = ("mia", "ben", "dog", "has", "got", "the", "new")


def leaks(points: int, seed: int) -> Outcome:
    """Draws memdial anew for each point: as it is it must pass, and with one thing of a split put into another it must be refused in one
    sentence that names both; as LoCoMo, which is held to less, wherever that thing was said."""
    outcome = Outcome()
    for point in range(points):
        rng = random.Random(f"leaks/{seed}/{point}")
        clean = {split: list(conversations(split, seed * points + point, count)) for split, count in _SIZES.items()}
        outcome.check(not _refusal("memdial", clean), f"draw {point} was refused: {_refusal('memdial', clean)}")
        for (what, plant), data in itertools.product(PLANTS.items(), ("memdial", "locomo")):
            source, target = rng.choice(_PAIRS)
            leaking = clean | {target: plant(clean[source], clean[target], rng)}
            said = _refusal(data, leaking)
            if data == "locomo" and what not in SAID:
                outcome.check(not said, f"LoCoMo with {what} was refused: {said}")
            else:
                named = f"splits {source} and {target}" in said and said.count("\n") == 0
                outcome.check(named, f"{what} of {source} in {target} of {data}: {said or 'was let through'}")
    return outcome


def near(points: int, seed: int) -> Outcome:
    """Compares `near_duplicates` with the Jaccard index of every pair, on two hundred sentences of few words a point."""
    outcome, rng = Outcome(), random.Random(f"near/{seed}")
    for point in range(points):
        first, second = ([tuple(rng.choices(_WORDS, k=rng.randint(1, 9))) for _ in range(100)] for _ in range(2))
        second += [_with_one_changed(words, rng) for words in first[:50]]
        share = rng.choice((0.3, 0.5, NEAR, 1.0))
        expected = {pair for pair in itertools.product(set(first), set(second)) if _jaccard(*pair) >= share}
        found = {(tuple(one.split()), tuple(other.split())) for _, one, other in near_duplicates(first, second, share)}
        outcome.check(found == expected, f"point {point}: {len(found ^ expected)} of {len(expected)} pairs differ at {share}")
    return outcome


def _refusal(data: str, by_split: dict[str, list[Record]]) -> str:
    try:
        describe_data(data, by_split)
    except ValueError as error:
        return str(error)
    return ""


def _jaccard(one: Sequence[str], other: Sequence[str]) -> float:
    runs = [{tuple(words[k : k + 3]) for k in range(max(1, len(words) - 2))} for words in (one, other)]
    return len(runs[0] & runs[1]) / len(runs[0] | runs[1])


def _with_one_changed(words: Sequence[str], rng: random.Random) -> tuple[str, ...]:
    at = rng.randrange(len(words))
    return (*words[:at], rng.choice(_WORDS), *words[at + 1 :])


Plant = Callable[[list[Record], list[Record], random.Random], list[Record]]


def _conversation(source: list[Record], target: list[Record], rng: random.Random) -> list[Record]:
    return [*target, rng.choice(source)]


def _renamed(source: list[Record], target: list[Record], rng: random.Random) -> list[Record]:
    return [*target, replace(rng.choice(source), id="another")]


def _fact(source: list[Record], target: list[Record], rng: random.Random) -> list[Record]:
    record = target[-1]
    return [*target[:-1], replace(record, facts=(*record.facts[:-1], rng.choice(rng.choice(source).facts)))]


def _id(source: list[Record], target: list[Record], rng: random.Random) -> list[Record]:
    return [*target[:-1], replace(target[-1], id=rng.choice(source).id)]


def _speaker(source: list[Record], target: list[Record], rng: random.Random) -> list[Record]:
    return [*target[:-1], replace(target[-1], speakers=(rng.choice(source).speakers[0], target[-1].speakers[1]))]


def _question(source: list[Record], target: list[Record], rng: random.Random) -> list[Record]:
    return [*target[:-1], replace(target[-1], questions=(*target[-1].questions, rng.choice(rng.choice(source).questions)))]


def _wording(source: list[Record], target: list[Record], rng: random.Random) -> list[Record]:
    """Chatter of another split in another order, told of somebody of this one."""
    said = [fact for record in source for fact in record.facts if fact.kind == "chatter"]
    fact = rng.choice(said)
    person = next(name for record in source for name in record.speakers if name in fact.text)
    words = fact.text.replace(person, target[-1].speakers[0]).split()
    rng.shuffle(words)
    changed = replace(fact, text=" ".join(words))
    return [*target[:-1], replace(target[-1], facts=(*target[-1].facts, changed))]


PLANTS: dict[str, Plant] = {
    "a conversation": _conversation,
    "a renamed conversation": _renamed,
    "an id": _id,
    "a fact": _fact,
    "a speaker": _speaker,
    "a question": _question,
    "a wording": _wording,
}
SAID = ("a conversation", "a renamed conversation", "an id", "a fact")  # what is a leak in LoCoMo too
