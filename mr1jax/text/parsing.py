"""The two forms that the agents write in, and how a finished response is read: by the grammar states it went through, inside jit.

The patterns are about the exact bytes of the tokens. A response does not begin with a space, so text that is encoded to imitate loses
the space that sentencepiece puts first. Both readers are total: what is illegal, or was cut off before its end token, reads as an
operation that the bank refuses or as an empty answer. The tokens of a text keep their leading space, " Mia".
"""

import re

import jax
import jax.numpy as jnp
from flax import struct

from mr1jax.structs import NO_KIND, NO_SLOT, PAD, Array, OperationKind
from mr1jax.text.grammar import DONE, Grammar, advance, compile_grammar
from mr1jax.text.packing import Segment
from mr1jax.text.tokenizer import Tokenizer

_SLOT = r"[0-9]{1,2}"
_TEXT = r"[^ \n][^\n]*"
_DELETE = rf"DELETE {_SLOT}"
_UPDATE = rf"UPDATE {_SLOT}"
_ADD = rf"({_DELETE}\n)?ADD: "
_QUOTES = r"( ?[^* \n][^\n]*\n){0,4}"
_MARKER = r"\*\*Answer:\*\* "

MANAGER_PATTERN = rf"NOOP|{_ADD}{_TEXT}|{_UPDATE}: {_TEXT}|{_DELETE}"
"""What the Memory Manager writes: `NOOP`, `ADD: text`, `UPDATE 3: text`, `DELETE 3`, or `DELETE 3`, a line break and `ADD: text`, the
replacement that language models like to make of an update. Text is one line that does not begin with a second space."""

ANSWER_PATTERN = _QUOTES + _MARKER + _TEXT
"""What the Answer Agent writes: up to four lines that quote memories, then `**Answer:** text`. No quote begins as the marker does, so the
marker is the first line that begins with it, and the answer may say anything."""

_ANSWER_LINE = re.compile(rf"^{_MARKER}([^\n]*)", re.MULTILINE)


@struct.dataclass
class ParsedOperation:
    """What a Manager response asks for: first the DELETE, if any, then the kind.

    delete: bool[]; kind: int32[], an `OperationKind` that is NOOP, ADD or UPDATE, or NO_KIND of a response that is not legal in full;
    slot: int32[], the number after DELETE or UPDATE, NO_SLOT without one; text: `Segment` of capacity R, the text after ADD or UPDATE,
    empty without one.
    """

    delete: Array
    kind: Array
    slot: Array
    text: Segment


def manager_grammar(tokenizer: Tokenizer) -> Grammar:
    """Compiles MANAGER_PATTERN with the labels that `parse_operation` reads.

    A text begins with the space before it, so that it is whole also where a tokenizer spells that space apart: " ", "U", "rsula".
    """
    labels = {"delete_slot": _DELETE, "update_slot": _UPDATE, "add_text": rf"{_ADD}({_TEXT})?", "update_text": rf"{_UPDATE}: ({_TEXT})?"}
    return compile_grammar(MANAGER_PATTERN, tokenizer, labels)


def answer_grammar(tokenizer: Tokenizer, distill: bool = True) -> Grammar:
    """Compiles ANSWER_PATTERN, or what of it is left without quotes, with the label that `parse_answer` reads: true from the space before
    the answer on."""
    before = _QUOTES + _MARKER if distill else _MARKER
    return compile_grammar(before + _TEXT, tokenizer, {"answer": rf"{before}({_TEXT})?"})


def parse_operation(grammar: Grammar, tokens_R: Array, length: Array) -> ParsedOperation:
    """Reads a Manager response of R tokens, of which the first length count, the end token included."""
    legal, within = _read(grammar, tokens_R, length)
    slot_R = within["delete_slot"] | within["update_slot"]
    text_R = within["add_text"] | within["update_text"]
    text_kind = jnp.where(jnp.any(within["add_text"]), OperationKind.ADD, OperationKind.UPDATE)
    return ParsedOperation(
        delete=jnp.any(within["delete_slot"]),
        kind=jnp.where(legal, jnp.where(jnp.any(text_R), text_kind, OperationKind.NOOP), NO_KIND).astype(jnp.int32),
        slot=jnp.where(jnp.any(slot_R), _read_number(grammar, tokens_R, slot_R), NO_SLOT),
        text=_cut_out(tokens_R, text_R),
    )


def parse_answer(grammar: Grammar, tokens_R: Array, length: Array) -> Segment:
    """Reads the answer, a `Segment` of capacity R, from a response of R tokens, of which the first length count, end token included."""
    return _cut_out(tokens_R, _read(grammar, tokens_R, length)[1]["answer"])


def split_response(text: str) -> tuple[str, str | None]:
    """Parts a response of the Answer Agent as text, finished or not, into its quotes and its answer so far, None where none has begun."""
    found = _ANSWER_LINE.search(text)
    return (text[: found.start()], found[1]) if found else (text, None)


def _read(grammar: Grammar, tokens_R: Array, length: Array) -> tuple[Array, dict[str, Array]]:
    """Returns whether a response is legal and finished, and {name: bool[R]}: which label each token carries, none where it is not."""
    tokens_R = jnp.where(jnp.arange(tokens_R.shape[0]) < length, tokens_R, PAD)

    def step(state, token):
        state = advance(grammar, state, token)
        return state, state

    final, state_R = jax.lax.scan(step, grammar.initial, tokens_R)
    return final == DONE, {name: label_Z[state_R] & (final == DONE) for name, label_Z in grammar.labels.items()}


def _read_number(grammar: Grammar, tokens_R: Array, mask_R: Array) -> Array:
    """Puts the digits of the masked tokens together: tokens " 1" and "2" are 1 * 10^1 + 2 * 10^0."""
    digits_R = jnp.where(mask_R, grammar.token_digits[tokens_R], 0)
    digits_after_R = jnp.sum(digits_R) - jnp.cumsum(digits_R)
    return jnp.sum(jnp.where(mask_R, grammar.token_number[tokens_R] * 10**digits_after_R, 0))


def _cut_out(tokens_R: Array, mask_R: Array) -> Segment:
    """Moves the one run of masked tokens to the front, PAD after it."""
    length = jnp.sum(mask_R, dtype=jnp.int32)
    tokens_R = jnp.roll(tokens_R, -jnp.argmax(mask_R))
    return Segment(tokens=jnp.where(jnp.arange(tokens_R.shape[0]) < length, tokens_R, PAD), length=length)
