"""Baselines that keep what was said as it was said: all of it to be searched (RAG), or the newest of it to be read (full history).

RAG over turns is LoCoMo's (arXiv 2402.17753, section 6): every turn is indexed and the best of them go into the prompt. Kept: the turns,
in memdial its facts and its chatter as said, and that none is ever lost. Another one: this harness's retrieval instead of their dense
retriever. Full history is the language model without a memory: as much of the conversation as fits its window, from the end backwards.
Both have a slot for every turn, whatever the capacity of the others.
"""

from collections.abc import Sequence

import numpy as np

from mr1jax.agents.prompts import Language
from mr1jax.config import Config, replace
from mr1jax.data.records import Record
from mr1jax.evaluate import Memories, append_only_banks
from mr1jax.structs import NO_TERM, Conversation


def rag_turns(conversations: Conversation, records: Sequence[Record], language: Language, config: Config) -> Memories:
    """ADDs every turn to a bank that holds them all."""
    everything = replace(config.bank, num_slots=conversations.fact_length.shape[1])
    return append_only_banks(conversations, language, replace(config, bank=everything))


def full_history(conversations: Conversation, records: Sequence[Record], language: Language, config: Config) -> Memories:
    """Keeps every turn without a word to find it by: retrieval then takes the newest first, and a full prompt leaves out the oldest."""
    memories = rag_turns(conversations, records, language, config)
    return memories._replace(banks=replace(memories.banks, terms=np.full_like(memories.banks.terms, NO_TERM)))


def whole_window(conversations: Conversation, config: Config) -> Config:
    """Lets the Answer Agent be shown as many memories as its prompt could hold if all were as short as the shortest, instead of the best
    few; the prompt is no longer than before."""
    said_CT, date_CI = np.asarray(conversations.fact_length), np.asarray(conversations.date_length)
    shortest = int(said_CT[said_CT > 0].min() + date_CI[date_CI > 0].min()) + 2  # a number and a line break are a token each, or more
    count = min(said_CT.shape[1], max(1, config.answerer.prompt_length // shortest))
    return replace(config, answerer=replace(config.answerer, num_retrieved=count, per_speaker=False, retrieval="lexical"))
