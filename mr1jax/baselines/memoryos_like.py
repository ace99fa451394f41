"""MemoryOS-like (arXiv 2506.06326): a short-term queue, mid-term segments that are hot or cold, and a long-term store of what was hot.

Kept of the original: what is said enters a short queue, first in, first out; what leaves it joins the mid-term segment most like it, or
begins one; a segment's heat is its visits, its length and how recent its last visit is (eq. 4, all weights 1); a segment hotter than
HOT is promoted, and when the mid-term tier overflows the coldest segment is evicted; the long-term store is a queue too. Another one: a
segment is visited when something like it is said, where the original counts retrievals: nobody asks before the end here. Likeness is
the Jaccard index of keywords, without the cosine of embeddings that the original adds. Left out: summaries, dialogue chains, and the
profiles of user and agent that a language model writes there: what is promoted stays as it was said. The three tiers share the slots that
all baselines have, and all are searched alike; the original reads them out one after the other into a longer prompt.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mr1jax.agents.prompts import Language
from mr1jax.agents.tasks import banks_of_facts
from mr1jax.baselines.amem_like import keywords
from mr1jax.config import Config
from mr1jax.data.records import Record
from mr1jax.evaluate import OPERATIONS, Memories
from mr1jax.structs import Conversation

SIMILAR = 0.3  # the least likeness with which a fact joins or visits a segment; chosen there too, of 0.2 to 0.5
# The original has 5, of segments that may be far longer. Chosen on the validation split, of 2, 3, 5 and 8: what is said twice is promoted.
HOT = 2.0
FADES = 16.0  # facts after which a visit counts 1/e


@dataclass
class Segment:
    """A mid-term segment. pages: facts in the order they came; words: all of theirs; last: the fact that visited it last."""

    pages: list[int]
    words: frozenset[str]
    last: int
    visits: int = 0

    def likeness(self, words: frozenset[str]) -> float:
        return len(words & self.words) / max(1, len(words | self.words))

    def heat(self, now: int) -> float:
        return self.visits + len(self.pages) + math.exp((self.last - now) / FADES)


@dataclass
class Tiers:
    """The memory of one conversation while it goes on: a quarter of the slots short-term, a quarter long-term, the rest mid-term."""

    num_slots: int
    short: list[int] = field(default_factory=list)
    middle: list[Segment] = field(default_factory=list)
    long: list[int] = field(default_factory=list)

    def hear(self, fact: int, keywords_T: Sequence[frozenset[str]]) -> None:
        """Takes in the next fact."""
        visited = self._most_like(keywords_T[fact])
        if visited:
            visited.visits, visited.last = visited.visits + 1, fact
        self.short.append(fact)
        if len(self.short) > max(1, self.num_slots // 4):
            self._file(self.short.pop(0), fact, keywords_T)
        hot = [segment for segment in self.middle if segment.heat(fact) > HOT]
        self.middle = [segment for segment in self.middle if segment not in hot]
        self.long = [*self.long, *(page for segment in hot for page in segment.pages)][-max(1, self.num_slots // 4) :]
        while sum(len(segment.pages) for segment in self.middle) > self.num_slots - 2 * max(1, self.num_slots // 4):
            self.middle.remove(min(self.middle, key=lambda segment: segment.heat(fact)))

    def _file(self, page: int, now: int, keywords_T: Sequence[frozenset[str]]) -> None:
        segment = self._most_like(keywords_T[page])
        if segment is None:
            self.middle.append(Segment([page], keywords_T[page], now))
        else:
            segment.pages.append(page)
            segment.words |= keywords_T[page]

    def _most_like(self, words: frozenset[str]) -> Segment | None:
        alike = [segment for segment in self.middle if segment.likeness(words) >= SIMILAR]
        return max(alike, key=lambda segment: segment.likeness(words), default=None)

    @property
    def facts(self) -> list[int]:
        return sorted([*self.short, *self.long, *(page for segment in self.middle for page in segment.pages)])


def kept(record: Record, num_slots: int) -> list[int]:
    """Lists the facts that one of the tiers holds at the end, in the order they were said."""
    tiers, keywords_T = Tiers(num_slots), keywords(record)
    for fact in range(len(record.facts)):
        tiers.hear(fact, keywords_T)
    return tiers.facts


def banks(conversations: Conversation, records: Sequence[Record], language: Language, config: Config) -> Memories:
    """Plays each conversation through the tiers; all facts were added, and those no longer held were dropped."""
    rows = [kept(record, config.bank.num_slots) for record in records]
    said, held = sum(len(record.facts) for record in records), sum(map(len, rows))
    filled = banks_of_facts(rows, np.arange(len(records)), conversations, language, config.bank)
    return Memories(filled, dict.fromkeys(OPERATIONS, 0) | {"add": said, "delete": said - held})
