"""A-Mem-like (arXiv 2502.12110): notes with keywords, linked as they are written, and a retrieval that follows the links.

Kept of the original: a note a fact, with its keywords; each new note is linked to the notes nearest to it; whoever finds a note is shown
those linked with it (its "box") too; nothing is ever merged or dropped by content. Another one: a language model extracts keywords and
decides on links there; here the keywords are the words of the fact, without function words and without the names of those who speak, and
a note is linked to the NUM_LINKS of the bank that share the rarest keywords with it. Left out: tags and contexts, the evolution of old
notes by new ones, and embeddings. The original knows no capacity; here the notes share the slots that all baselines have, and the oldest
goes. What is shown is no more than the Answer Agent is shown otherwise: linked notes take the places of others that were found.
"""

import functools
import math
from collections import Counter
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mr1jax.agents.manager import text_terms
from mr1jax.agents.prompts import Language
from mr1jax.agents.rollout import AnswerTask
from mr1jax.agents.tasks import answer_tasks, ask_at_end, banks_of_facts
from mr1jax.config import AgentConfig, Config, replace
from mr1jax.data.records import Record
from mr1jax.evaluate import OPERATIONS, Memories
from mr1jax.memory.retrieval import bm25, retrieve
from mr1jax.structs import NO_SLOT, Array, Conversation, MemoryBank
from mr1jax.text.words import words

NUM_LINKS = 2  # of a new note, to older ones


def keywords(record: Record) -> list[frozenset[str]]:
    """Lists the keywords of each fact."""
    names = frozenset(words(" ".join(record.speakers)))
    return [frozenset(words(fact.text)) - names for fact in record.facts]


def link_notes(record: Record, num_slots: int) -> dict[int, list[int]]:
    """Returns for each note that is left at the end those linked with it, either way, the newest first.

    A new note is linked to the NUM_LINKS notes of the bank that have the most in common with it, sum over shared keywords of
    ln(1 + N / n), of N notes the keyword being in n; those with no keyword in common are never linked.
    """
    keywords_T, linked = keywords(record), {note: set[int]() for note in range(len(record.facts))}
    for note, own in enumerate(keywords_T):
        bank = range(max(0, note - num_slots + 1), note)  # an ADD to a full bank has taken the place of the oldest
        having = Counter(word for other in bank for word in keywords_T[other])
        common = {other: sum(math.log1p(len(bank) / having[word]) for word in own & keywords_T[other]) for other in bank}
        best = sorted((other for other in bank if common[other] > 0), key=lambda other: (-common[other], -other))
        for other in best[:NUM_LINKS]:
            linked[note].add(other)
            linked[other].add(note)
    left = range(len(record.facts))[-num_slots:]
    return {note: sorted(linked[note] & set(left), reverse=True) for note in left}


def banks(conversations: Conversation, records: Sequence[Record], language: Language, config: Config) -> Memories:
    """Writes a note a fact; slot i holds the i-th of those that are left."""
    left = [range(len(record.facts))[-config.bank.num_slots :] for record in records]
    filled = banks_of_facts(left, np.arange(len(records)), conversations, language, config.bank)
    return Memories(filled, dict.fromkeys(OPERATIONS, 0) | {"add": sum(len(record.facts) for record in records)})


def follow_links(found: Sequence[int], linked: dict[int, list[int]], count: int) -> list[int]:
    """Lists the notes to show: each that was found, best first, and behind it those linked with it; `count` in all."""
    return list(dict.fromkeys(note for one in found for note in (one, *linked[one])))[:count]


def shown_banks(
    memories: Memories, conversations: Conversation, records: Sequence[Record], language: Language, config: Config
) -> MemoryBank:
    """Returns for each question asked at the end the bank of its conversation with nothing left in it but the notes to show."""
    asked = ask_at_end(conversations)
    tasks = answer_tasks(memories.banks, conversations, asked)
    found_QK = np.asarray(_find(tasks, language, config.answerer))
    occupied_QS = np.zeros_like(tasks.bank.occupied)
    linked = [link_notes(record, config.bank.num_slots) for record in records]
    for place, (conversation, _) in enumerate(asked):
        first = min(linked[conversation])  # the note of slot 0
        found = [first + int(slot) for slot in found_QK[place] if slot != NO_SLOT]
        shown = follow_links(found, linked[conversation], config.answerer.num_shown)
        occupied_QS[place, [note - first for note in shown]] = True
    return replace(tasks.bank, occupied=occupied_QS)


@functools.partial(jax.jit, static_argnames="agent")
def _find(tasks: AnswerTask, language: Language, agent: AgentConfig) -> Array:
    """Finds the best notes of each question by its words: int32[Q, K] slots, as the Answer Agent's own retrieval does."""

    def one(task: AnswerTask) -> Array:
        query_M = text_terms(language.table, task.question.tokens, task.question.length, task.bank.terms.shape[1])
        score_S = bm25(task.bank.terms, task.bank.occupied, query_M)
        return retrieve(score_S, jnp.asarray(task.bank.occupied), agent.num_shown, task.bank.written).slot

    return jax.vmap(one)(tasks)
