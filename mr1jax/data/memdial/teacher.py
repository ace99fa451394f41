"""What the warm start imitates: how a plain language model manages a memory and answers from one, mistakes included.

The Manager's heuristic adds what comes: of no kind of fact does anything happen more often. When something changes it adds the new fact
beside the old one, or deletes and adds; it seldom updates, and ignores one in three of the facts that are chatter (the habits that the
paper's case studies show of untrained models). The Answer Agent has the
skill but not the choice: it quotes a plausible memory, by word overlap with ties broken at random, stale ones included, and answers from
what it quoted. Reinforcement learning has to find out what is worth keeping and which memory to trust.
"""

import functools
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from mr1jax.data.memdial import wordings as say
from mr1jax.data.memdial.world import MULTI_HOP, NO_ANSWER, TEMPORAL
from mr1jax.data.records import Question, Record

_STOP_WORDS = frozenset(
    """a an the is of in to it has have had was and with about that there us this as on by now what when where which who did does do you
    know can tell told say says said mentioned me name called day""".split()
)
_LEMMA = {event.past.split()[0]: event.base.split()[0] for event in say.EVENTS}

# How often the heuristic does what, by kind of fact. "replace" is DELETE and ADD together.
HABITS: dict[str, dict[str, float]] = {
    "new": {"add": 0.93, "replace": 0.04, "noop": 0.03},
    "vague": {"add": 0.85, "noop": 0.15},
    "event": {"add": 0.90, "replace": 0.07, "noop": 0.03},
    "change": {"add": 0.55, "replace": 0.20, "update": 0.25},
    "refine": {"add": 0.55, "replace": 0.15, "update": 0.30},
    "correct": {"add": 0.55, "replace": 0.20, "update": 0.25},
    "end": {"add": 0.55, "delete": 0.20, "update": 0.25},
    "repeat": {"add": 0.70, "update": 0.10, "noop": 0.20},
    "chatter": {"add": 0.65, "noop": 0.35},
}


@functools.lru_cache(maxsize=100_000)
def content_words(text: str) -> frozenset[str]:
    """The words that carry the meaning of a sentence, possessives and inflections stripped.

    "Mia called Ben" tells of a call, "a dog called Rex" does not.
    """
    text = re.sub(r"\b([A-Z][a-z]+) called\b", r"\1 call", text)
    words = re.findall(r"[a-z]+|\d+", re.sub(r"'s\b", "", text.lower()))
    return frozenset(_LEMMA.get(w, w) for w in words if w not in _STOP_WORDS)


def overlap(query: str, text: str) -> int:
    """How many words that carry meaning two sentences share."""
    return len(content_words(query) & content_words(text))


@dataclass(frozen=True)
class Choice:
    """An operation as the heuristic means it: `target` is the fact whose memory it writes over or drops, None where it needs none."""

    kind: str
    target: int | None = None


class HeuristicManager:
    """A bank of fact indices in the order they were written, kept by the heuristic; the oldest goes when it is full."""

    def __init__(self, record: Record, num_slots: int, rng: random.Random):
        self._record, self._num_slots, self._rng = record, num_slots, rng
        self.rows: list[int] = []

    def choose(self, fact: int) -> Choice:
        """Picks an operation for the next fact without carrying it out."""
        habits = HABITS[self._record.facts[fact].kind]
        (kind,) = self._rng.choices(list(habits), list(habits.values()))
        if kind in ("add", "noop"):
            return Choice(kind)
        target = self.related(fact)
        return Choice("add") if target is None else Choice(kind, target)

    def apply(self, fact: int, choice: Choice) -> None:
        """Carries out an operation: what is written last stands last."""
        if choice.target is not None:
            self.rows.remove(choice.target)
        if choice.kind in ("add", "replace", "update"):
            self.rows = [*self.rows, fact][-self._num_slots :]

    def related(self, fact: int) -> int | None:
        """The remembered fact that this one is about: the newest of its chain, else the one most alike of the same person."""
        facts, about = self._record.facts, self._record.facts[fact].source
        while about:
            if int(about) in self.rows:
                return int(about)
            about = facts[int(about)].source
        alike = [row for row in self.rows if overlap(facts[fact].text, facts[row].text) >= 2]
        return max(alike, key=lambda row: overlap(facts[fact].text, facts[row].text), default=None)


def _best(query: str, record: Record, rows: Sequence[int], rng: random.Random) -> tuple[int | None, int]:
    scores = [overlap(query, record.facts[row].text) for row in rows]
    best = max(scores, default=0)
    return (rng.choice([row for row, score in zip(rows, scores, strict=True) if score == best]), best) if best else (None, 0)


def respond(
    question: Question, record: Record, values: Sequence[str | None], rows: Sequence[int], rng: random.Random
) -> tuple[list[int], str]:
    """Answers a question from the memories shown: returns the facts quoted and the answer.

    The answer is what the last quoted memory tells, or its date where the question asks when; NO_ANSWER where it tells nothing.
    """
    quoted, fit = _best(question.question, record, rows, rng)
    if quoted is None or fit < 2:
        return [], NO_ANSWER
    quotes = [quoted]
    link = values[quoted]
    if question.category == MULTI_HOP and link:
        noun = content_words(question.question) - content_words(record.facts[quoted].text)
        second, fit = _best(" ".join([link, *sorted(noun)]), record, [row for row in rows if row != quoted], rng)
        quotes += [second] if second is not None and fit >= 2 else []
    told = record.facts[quotes[-1]].date if question.category == TEMPORAL else values[quotes[-1]]
    return quotes, told or NO_ANSWER
