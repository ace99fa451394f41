"""What both agents share: the phrases that prompts are made of, and memories as the lines that an agent reads and quotes.

A prompt says what is asked first, then shows the memories: a causal model then reads every memory already knowing what to look for. A line
is `text [2] date` and ends in a line break: subject first, date last, so that quoting from a word on is copying what followed it. The
number stands for a slot: the Manager can name no other. It is put between text and date so that no two lines go on alike there: with one
mark for all of them a small model quotes the date of another line.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import struct

from mr1jax.config import AgentConfig
from mr1jax.memory.retrieval import gather, gather_times
from mr1jax.structs import NO_SLOT, Array, MemoryBank, Retrieval
from mr1jax.text.grammar import Grammar
from mr1jax.text.huggingface_tokenizer import ChatFrame
from mr1jax.text.packing import Segment, constant, join_rows, keep_within, pack
from mr1jax.text.parsing import answer_grammar, manager_grammar
from mr1jax.text.tokenizer import ByteTable, Tokenizer, byte_table

MARKERS = ("\n", "Memories:", "Question:", "Fact:", "**Answer:**", "ADD:", "UPDATE", "DELETE", "NOOP")
"""Pieces of every prompt and response that a tokenizer trained for this library keeps as one token each."""

DATE_MARK = "|"


def number_mark(number: int) -> str:
    """What stands between text and date of a memory: "[2]"."""
    return f"[{number}]"


MANAGER_INSTRUCTIONS = """You keep the memory of a conversation. You are shown a new fact, and then the memories most like it, each with \
a number. Say what is to be done with the memory, in one of these forms and nothing else:
ADD: the fact, as a new memory
UPDATE 2: what memory 2 should say from now on
DELETE 2
NOOP

"""
_SHOWN = "You are shown a question, and then memories of a conversation, each with a number, the oldest first."
_COPY = "First copy the memories that you rely on, each with its number on a line of its own. Then write"
_CONCLUDE = '**Answer:** and as few words as answer the question, or "not mentioned".\n\n'
ANSWERER_INSTRUCTIONS = f"{_SHOWN} {_COPY} {_CONCLUDE}"
UNDISTILLED_INSTRUCTIONS = f"{_SHOWN} Write {_CONCLUDE}"


@struct.dataclass
class Phrases:
    """The constant pieces of prompts.

    manager, answerer: what a prompt of that agent begins with, "Fact:" or "Question:" last; memories: what is between that and the
    lines; closing: what ends a prompt; date_mark: between a new fact and its date;
    numbers: `Segment` with a leading axis, entry k is "[k + 1]", between text and date of a memory.
    """

    manager: Segment
    answerer: Segment
    memories: Segment
    closing: Segment
    date_mark: Segment
    line_break: Segment
    numbers: Segment


@struct.dataclass
class Language:
    """All that the compiled program knows of text: bytes of tokens, both grammars, phrases. A pytree, so one program serves any."""

    table: ByteTable
    manager: Grammar
    answerer: Grammar
    phrases: Phrases
    eos_id: int = struct.field(pytree_node=False)


@struct.dataclass
class Dates:
    """The dates of one conversation as text. tokens: int32[I, Y], length: int32[I]; times index them."""

    tokens: Array
    length: Array


def make_language(tokenizer: Tokenizer, num_numbered: int, frame: ChatFrame | None = None, *, distill: bool = True) -> Language:
    """Builds tables, grammars and phrases for a tokenizer on the host; an agent sees at most `num_numbered` memories.

    frame: of a model that was trained to follow instructions: it is told what to do, in its own chat template. Without one, as for
    `tiny`, a prompt is what is asked and the bare memories: the agent was trained on nothing else.
    distill: whether the Answer Agent quotes memories before it answers.
    """
    line_break = tokenizer.encode_exactly("\n")

    def opening(instructions: str, asked: str) -> Segment:
        told = [*frame.before, *tokenizer.encode_exactly(instructions)] if frame else []
        return constant([*told, *tokenizer.encode_exactly(asked)])

    phrases = Phrases(
        manager=opening(MANAGER_INSTRUCTIONS, "Fact:"),
        answerer=opening(ANSWERER_INSTRUCTIONS if distill else UNDISTILLED_INSTRUCTIONS, "Question:"),
        memories=constant([*tokenizer.encode_exactly("Memories:"), *line_break]),
        closing=constant(frame.after if frame else []),
        date_mark=constant(tokenizer.encode(DATE_MARK)),
        line_break=constant(line_break),
        numbers=number_marks(tokenizer, num_numbered),
    )
    table, grammar = byte_table(tokenizer), answer_grammar(tokenizer, distill)
    return Language(table, manager_grammar(tokenizer), grammar, phrases, tokenizer.eos_id)


def number_marks(tokenizer: Tokenizer, count: int) -> Segment:
    """Encodes "[1]" to "[count]", a `Segment` with a leading axis."""
    numbers = [tokenizer.encode(number_mark(k)) for k in range(1, count + 1)]
    width = max(map(len, numbers))
    return Segment(
        tokens=jnp.asarray([row + [0] * (width - len(row)) for row in numbers], jnp.int32),
        length=jnp.asarray([len(row) for row in numbers], jnp.int32),
    )


def dated_line(text: Segment, time: Array, dates: Dates, phrases: Phrases) -> list[Segment]:
    """The pieces of a new fact: text, date mark, the date at index `time`, line break."""
    return [text, phrases.date_mark, Segment(dates.tokens[time], dates.length[time]), phrases.line_break]


def pack_prompt(
    asked: Sequence[Segment],
    bank: MemoryBank,
    retrieval: Retrieval,
    rank_K: Array,
    dates: Dates,
    phrases: Phrases,
    config: AgentConfig,
) -> tuple[Array, Array, Retrieval]:
    """Packs what is asked and the retrieved memories into a prompt, numbered from 1; over the budget the lowest ranked go first.

    A memory shows the date of its last write: what was said last is what holds.

    Returns (prompt int32[L], length int32[], the `Retrieval` of what is shown, in the order of the prompt).
    """
    text_K = Segment(*gather(bank, retrieval))
    _, updated_K = gather_times(bank, retrieval)
    date_K = Segment(dates.tokens[updated_K], dates.length[updated_K])
    widest = phrases.numbers.tokens.shape[1]
    fixed = sum(segment.length for segment in (*asked, phrases.memories, phrases.closing))
    added_K = text_K.length + widest + date_K.length + phrases.line_break.length
    kept_K = keep_within(added_K, rank_K, retrieval.mask, config.prompt_length - fixed)
    number_K = jax.tree.map(lambda rows: rows[jnp.cumsum(kept_K) - 1], phrases.numbers)

    def line(text: Segment, number: Segment, date: Segment) -> tuple[Array, Array]:
        pieces = (text, number, date, phrases.line_break)
        return pack(pieces, sum(piece.tokens.shape[0] for piece in pieces))

    lines = join_rows(*jax.vmap(line)(text_K, number_K, date_K), kept_K)
    prompt_L, length = pack([*asked, phrases.memories, lines, phrases.closing], config.prompt_length)
    return prompt_L, length, Retrieval(slot=jnp.where(kept_K, retrieval.slot, NO_SLOT), score=retrieval.score, mask=kept_K)
