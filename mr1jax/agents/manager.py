"""The Memory Manager: what it sees of a bank when a fact arrives, and what its response does to the bank.

It sees the fact and the memories most like it, best first and numbered, and writes `ADD: text`, `UPDATE 2: text`, `DELETE 2`,
`DELETE 2` with `ADD: text`, or `NOOP` (Memory-R1, arXiv 2508.19828, section 3.1). Functions are for one bank; `vmap` them.
"""

import jax.numpy as jnp
from flax import struct

from mr1jax.agents.prompts import Dates, Language, dated_line, pack_prompt
from mr1jax.config import AgentConfig
from mr1jax.memory.retrieval import bm25, retrieve
from mr1jax.structs import NO_SLOT, PAD, Array, MemoryBank, Operation, OperationKind, Retrieval
from mr1jax.text.detokenize import token_bytes
from mr1jax.text.packing import Segment
from mr1jax.text.parsing import parse_operation
from mr1jax.text.tokenizer import ByteTable
from mr1jax.text.words import hash_words

MAX_OPERATIONS = 2  # of one response: a DELETE, then an ADD
_BYTES_A_TOKEN = 6  # room for the bytes of a text; words past it are not hashed


@struct.dataclass
class NewFact:
    """A fact as it arrives. tokens: int32[W], length: int32[], speaker: int32[], time: int32[] an index of the dates."""

    tokens: Array
    length: Array
    speaker: Array
    time: Array


@struct.dataclass
class ManagerView:
    """What the Manager sees. prompt: int32[L], length: int32[]; shown: `Retrieval` [K], number k + 1 in the prompt is shown.slot[k]."""

    prompt: Array
    length: Array
    shown: Retrieval


def text_terms(table: ByteTable, tokens: Array, length: Array, num_terms: int) -> Array:
    """Hashes the words of a text for lexical retrieval: int32[num_terms]."""
    return hash_words(*_within(token_bytes(table, tokens, length, _BYTES_A_TOKEN * tokens.shape[0])), num_terms)


def observe(bank: MemoryBank, fact: NewFact, dates: Dates, language: Language, config: AgentConfig) -> ManagerView:
    """Retrieves the memories most like the fact and packs the prompt."""
    query_terms_M = text_terms(language.table, fact.tokens, fact.length, bank.terms.shape[1])
    found = retrieve(bm25(bank.terms, bank.occupied, query_terms_M), bank.occupied, config.num_retrieved, bank.written)
    phrases = language.phrases
    asked = [phrases.manager, *dated_line(Segment(fact.tokens, fact.length), fact.time, dates, phrases)]
    return ManagerView(*pack_prompt(asked, bank, found, jnp.arange(config.num_retrieved), dates, phrases, config))


def act(view: ManagerView, fact: NewFact, response_R: Array, length: Array, language: Language, num_terms: int) -> Operation:
    """Reads a response as MAX_OPERATIONS operations, stacked: a DELETE or NOOP, then an ADD, UPDATE or NOOP.

    A number that stands for no memory shown gives NO_SLOT, and a response that is not legal NO_KIND; `apply_operation` refuses both and
    says why. The text is cut to the width of a slot.
    """
    parsed = parse_operation(language.manager, response_R, length)
    named = (parsed.slot >= 1) & (parsed.slot <= view.shown.slot.size)
    slot = jnp.where(named, view.shown.slot[parsed.slot - 1], NO_SLOT)
    width = fact.tokens.shape[0]
    text_W = jnp.pad(parsed.text.tokens, (0, max(0, width - response_R.size)), constant_values=PAD)[:width]
    text_length = jnp.minimum(parsed.text.length, width)
    return Operation(
        kind=jnp.stack([jnp.where(parsed.delete, OperationKind.DELETE, OperationKind.NOOP), parsed.kind]),
        slot=_twice(slot),
        tokens=_twice(text_W),
        length=_twice(text_length),
        terms=_twice(text_terms(language.table, text_W, text_length, num_terms)),
        speaker=_twice(fact.speaker),
        time=_twice(fact.time),
    )


def _twice(x: Array) -> Array:
    return jnp.stack([x] * MAX_OPERATIONS)


def _within(text: tuple[Array, Array]) -> tuple[Array, Array]:
    bytes_A, num_bytes = text
    return bytes_A, jnp.minimum(num_bytes, bytes_A.size)
