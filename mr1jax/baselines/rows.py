"""All baselines as rows of one table: the same questions, the same prompt budget, the same Answer Agent."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from mr1jax import evaluate
from mr1jax.agents.prompts import number_marks
from mr1jax.agents.tasks import ask_at_end
from mr1jax.baselines import amem_like, mem0_like, memoryos_like, raw
from mr1jax.baselines.memory_sft import train_memory_sft
from mr1jax.config import AGENTS, replace
from mr1jax.data.records import Record
from mr1jax.evaluate import Memories, Row
from mr1jax.model.lora import agent_params
from mr1jax.prepare import Start
from mr1jax.structs import Conversation, MemoryBank, PyTree

# What a reader of the table has to know of each row, by its name, in the order of the table.
NOTES = {
    "no_memory": "bank: none",
    "full_history": "bank: unlimited; the newest turns that fit the prompt, not searched",
    "rag_turns": "bank: unlimited; every turn as said",
    "append_only": "the oldest memory goes when the bank is full",
    "amem_like": "linked notes are shown with the one found; the oldest goes when the bank is full",
    "mem0_like": "the untrained Manager decides what likeness alone does not",
    "memoryos_like": "three tiers share the slots; the coldest segment goes",
    "memory_sft": "both agents supervised by memdial's oracle; its own Answer Agent",
}


def baseline_rows(
    start: Start,
    conversations: Conversation,
    records: Sequence[Record],
    seed: int,
    folder: Path,
    reader: PyTree | None = None,
) -> dict[str, Row]:
    """Evaluates every baseline on the questions to these conversations, in the order of NOTES.

    start: the untrained agents; conversations: `encode(records, start)`; seed: of the intervals; folder: where Memory-SFT trains, or has
    trained; reader: parameters of the Answer Agent of every row but Memory-SFT's, the untrained one where none are given. Raises
    ValueError where retrieval is not lexical.
    """
    language, config = start.language, start.config
    warm = {agent: agent_params(start.params, agent, config.lora) for agent in AGENTS}
    reads = warm["answerer"] if reader is None else reader
    told = (conversations, records, language, config)

    def row(memories: Memories) -> Row:
        return evaluate.evaluate(reads, memories, conversations, language, config, seed=seed)

    imitators, notes = train_memory_sft(start, folder), amem_like.banks(*told)
    return {
        "no_memory": row(evaluate.empty_banks(conversations, config)),
        "full_history": _full_history_row(reads, start, conversations, records, seed),
        "rag_turns": row(raw.rag_turns(*told)),
        "append_only": row(evaluate.append_only_banks(conversations, language, config)),
        "amem_like": row_of_shown(reads, notes, amem_like.shown_banks(notes, *told), conversations, start, seed),
        "mem0_like": row(mem0_like.banks(warm["manager"], *told)),
        "memoryos_like": row(memoryos_like.banks(*told)),
        "memory_sft": evaluate.evaluate(
            imitators["answerer"],
            evaluate.build_banks(imitators["manager"], conversations, language, config),
            conversations,
            language,
            config,
            seed=seed,
        ),
    }


def _full_history_row(reader: PyTree, start: Start, conversations: Conversation, records: Sequence[Record], seed: int) -> Row:
    """Shows the reader its whole window, for which there have to be numbers enough."""
    config = raw.whole_window(conversations, start.config)
    numbers = number_marks(start.tokenizer, config.answerer.num_retrieved)
    language = replace(start.language, phrases=replace(start.language.phrases, numbers=numbers))
    memories = raw.full_history(conversations, records, language, config)
    return evaluate.evaluate(reader, memories, conversations, language, config, seed=seed)


def row_of_shown(reader: PyTree, memories: Memories, shown: MemoryBank, conversations: Conversation, start: Start, seed: int) -> Row:
    """Evaluates a baseline that finds memories in its own way. shown: a bank for each question asked at the end, holding no more than is
    to be shown; memories: what the banks of the conversations hold."""
    asked = ask_at_end(conversations)
    of, which = np.asarray(asked, np.int32).T
    one_each = jax.tree.map(lambda x: np.asarray(x)[of], conversations)
    only = np.arange(one_each.question_length.shape[1]) == which[:, None]
    one_each = replace(one_each, question_length=np.where(only, one_each.question_length, 0))
    answers = evaluate.answer_questions(reader, shown, one_each, start.language, start.config)
    answers = [replace(answer, conversation=conversation) for answer, (conversation, _) in zip(answers, asked, strict=True)]
    banks = evaluate.read_banks(memories.banks, conversations, start.language)
    return replace(evaluate.make_row(memories, answers, seed), banks=banks)
