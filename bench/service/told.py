"""What is said and asked in the measurements: sentences of memdial's validation split, and which of them a question is about."""

import itertools
from dataclasses import dataclass

from mr1jax.data.memdial.world import generate

_SPLIT = "validation"


@dataclass(frozen=True)
class Told:
    """Sentences, and questions about them, conversation by conversation."""

    facts: tuple[str, ...]
    questions: tuple[str, ...]


def told(conversations: int, seed: int = 0) -> list[Told]:
    """Returns so many conversations; no two have the same people and values."""
    records = (generate(number, _SPLIT)[0] for number in itertools.count(seed * 100_000))
    taken = itertools.islice(records, conversations)
    return [Told(tuple(fact.text for fact in each.facts), tuple(asked.question for asked in each.questions)) for each in taken]


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Returns the median, the 95th and the 99th percentile in milliseconds, each the time of a request that was; 0 where there is none."""
    ordered = sorted(seconds) or [0.0]
    return {f"p{share}_ms": round(1000 * ordered[min(len(ordered) * share // 100, len(ordered) - 1)], 2) for share in (50, 95, 99)}
