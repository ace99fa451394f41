"""Turns a regex into a token automaton: on the host once, as small tables that the sampler masks with inside jit.

outlines-core gives the automaton of a regex over bytes. From there this file works with the exact bytes of tokens (a sentencepiece
"▁Mia" is " Mia"), so one path serves a toy vocabulary, byte fallback and the 152k tokens of Qwen. What a token means is not left to a
parser either: *labels*, regexes over the text so far, are read along by the same automaton, and the state after a token tells
which of them hold. `parsing.py` holds the two forms our agents write in.

A walk starts in `initial`, ends with the end token in DONE and stays there while PAD follows. Every other wrong turn is DEAD for good.
"""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from flax import struct
from outlines_core import Index, Vocabulary

from mr1jax.config import require
from mr1jax.structs import PAD, Array
from mr1jax.text.tokenizer import Tokenizer

DEAD = 0  # the text so far begins no legal response
DONE = 1  # the end token was written where it may be
UNREACHABLE = 1 << 30  # the distance of a state from which no response can be finished

_START = 2
_END = 256  # what stands for the end of the text in a vocabulary of the 256 bytes
_SPACE = ord(" ")
_ANY_REGION = -1
_MAX_DIGITS = 9  # of a number that is sure to fit an int32


@struct.dataclass
class Grammar:
    """A token automaton of Z states over V tokens in C classes; tokens that behave alike in every state share a class.

    token_class: int32[V]
    transition:  int32[Z, C]         state after a token of the class
    distance:    int32[Z]            fewest tokens that finish a response from here, the end token included; 0 in DONE
    initial:     int32[]
    labels:      {name: bool[Z]}     a label holds of the text that led here, so of the last token of that text
    token_number, token_digits: int32[V]   value and number of the digits of a token that is a number; 0, 0 of any other
    """

    token_class: Array
    transition: Array
    distance: Array
    initial: Array
    labels: dict[str, Array]
    token_number: Array
    token_digits: Array


def advance(grammar: Grammar, state: Array, token: Array) -> Array:
    """Returns the state after a token; shapes [...] and [...]."""
    return grammar.transition[state, grammar.token_class[token]]


def allowed(grammar: Grammar, state: Array, remaining: Array | int) -> Array:
    """Returns bool[..., V]: the tokens after which the response can still be finished, when `remaining` more may be written.

    state is int32[...]; remaining, which counts the token to be chosen, is a number or int32[...]. While
    remaining >= distance[state] there is always a token, and whoever draws only from these ends in DONE; in DONE that is PAD.
    """
    remaining = jnp.broadcast_to(remaining, state.shape)[..., None]
    class_allowed = grammar.distance[grammar.transition[state]] < remaining
    return jnp.take(class_allowed, grammar.token_class, axis=-1)


def check_response_budget(setting: str, budget: int, grammar: Grammar) -> None:
    """Raises `ValueError` if budget tokens hold no response at all; setting names the field, such as "manager.response_length"."""
    shortest = int(grammar.distance[grammar.initial])
    require(
        shortest <= budget,
        f"response budget of {budget} tokens is smaller than the shortest legal response ({shortest} tokens with the end token); "
        f"set {setting} to at least {shortest}",
    )


def compile_grammar(pattern: str, tokenizer: Tokenizer, labels: Mapping[str, str]) -> Grammar:
    """Builds the automaton of all responses whose bytes, up to the end token, match the pattern in full.

    A label is a regex for the text written so far; `grammar.labels[name][state]` says whether it matches in full. All bytes of a
    token, save one leading space, have the same labels: a token that would cross a border, such as "3:" from a slot into what follows,
    is not allowed where it would. Inside a character of several bytes a label holds if it can hold once the character is complete.

    Raises `ValueError` for a pattern or label that is no regex or matches the empty text, and for a pattern of which the tokenizer can
    write no text.
    """
    pieces = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    pieces[PAD] = pieces[tokenizer.eos_id] = b""
    next_ZB, accepting_Z, label_NZ = _labelled_automaton(pattern, list(labels.values()))
    _, region_Z = np.unique(label_NZ, axis=1, return_inverse=True)
    after_VZ = _walk_tokens(next_ZB, region_Z, pieces)
    after_VZ[tokenizer.eos_id, accepting_Z] = DONE
    after_VZ[PAD, DONE] = DONE
    after_CZ, token_class = _distinct_rows(after_VZ)
    distance_Z = _distances(after_CZ)
    require(distance_Z[_START] < UNREACHABLE, f"the tokenizer has no tokens that spell a text of the pattern {pattern!r}")
    number_V, digits_V = _numbers(pieces)
    return Grammar(
        token_class=jnp.asarray(token_class, jnp.int32),
        transition=jnp.asarray(after_CZ.T, jnp.int32),
        distance=jnp.asarray(distance_Z, jnp.int32),
        initial=jnp.int32(_START),
        labels={name: jnp.asarray(label_Z) for name, label_Z in zip(labels, label_NZ, strict=True)},
        token_number=jnp.asarray(number_V),
        token_digits=jnp.asarray(digits_V),
    )


def _byte_automaton(pattern: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (next state [Z, 256], accepting [Z]) of a regex; state 0 is dead, the walk starts in 1."""
    vocabulary = Vocabulary(_END, {bytes([byte]): [byte] for byte in range(256)})
    try:
        # Without \z the first alternative that matches hides the longer ones: "a|ab" would never accept "ab".
        index = Index(rf"(?:{pattern})\z", vocabulary)
    except ValueError as error:
        raise ValueError(f"no automaton for {pattern!r}; give a regex that does not match the empty text ({error})") from error
    transitions = index.get_transitions()
    number = {index.get_initial_state(): 1}
    for state, row in transitions.items():
        for reached in (state, *row.values()):
            number.setdefault(reached, len(number) + 1)
    next_ZB = np.zeros((len(number) + 1, _END + 1), np.int32)
    for state, row in transitions.items():
        for byte, reached in row.items():
            next_ZB[number[state], byte] = number[reached]
    accepting_Z = np.zeros(len(next_ZB), bool)
    accepting_Z[[number[state] for state in index.get_final_states()]] = True
    return next_ZB[:, :_END], accepting_Z


def _labelled_automaton(pattern: str, labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs the automaton of the pattern and those of the N labels side by side, so that a state knows which labels hold.

    Returns (next state [Z, 256], accepting [Z], label [N, Z]), numbered as in `Grammar`.
    """
    tables, finals = zip(*map(_byte_automaton, (pattern, *labels)), strict=True)
    number = {(1,) * len(tables): _START}
    states, rows = list(number), [np.zeros(256, np.int32), np.zeros(256, np.int32)]
    for state in states:  # grows as new ones are reached
        reached_B = np.stack([table[part] for table, part in zip(tables, state, strict=True)], axis=1)
        row_B = np.zeros(256, np.int32)
        for byte in np.flatnonzero(reached_B[:, 0]):
            reached = tuple(reached_B[byte].tolist())
            if reached not in number:
                number[reached] = _START + len(states)
                states.append(reached)
            row_B[byte] = number[reached]
        rows.append(row_B)
    next_ZB = np.stack(rows)
    holds_NZ = np.zeros((len(tables), len(rows)), bool)
    for holds_Z, final, parts in zip(holds_NZ, finals, zip(*states, strict=True), strict=True):
        holds_Z[_START:] = final[list(parts)]
    accepting_Z, label_NZ = holds_NZ[0], holds_NZ[1:]
    for _ in range(3):  # a UTF-8 character has up to three continuation bytes, 0x80 to 0xBF, and they stand nowhere else
        label_NZ |= label_NZ[:, next_ZB[:, 0x80:0xC0]].any(axis=-1)
    return next_ZB, accepting_Z, label_NZ


def _walk_tokens(next_ZB: np.ndarray, region_Z: np.ndarray, pieces: Sequence[bytes]) -> np.ndarray:
    """Returns the state after each token from each state, [V, Z]: DEAD after a token without bytes, and after one that crosses regions.

    Walks all pairs of token and state a byte at a time and drops those that died: after one byte few are left.
    """
    size_V = np.array([len(piece) for piece in pieces])
    offset_V = np.cumsum(size_V) - size_V
    data = np.frombuffer(b"".join(pieces) + b"\0", np.uint8)  # one more: the last token may be empty
    after_VZ = np.full((len(pieces), len(next_ZB)), DEAD, np.int32)
    token, start = np.nonzero((next_ZB[:, data[offset_V]] != DEAD).T & (size_V > 0)[:, None])
    state, region = start, np.full(len(token), _ANY_REGION)
    position = 0
    while token.size:
        byte = data[offset_V[token] + position]
        state = next_ZB[state, byte]
        entered = np.where((position == 0) & (byte == _SPACE), _ANY_REGION, region_Z[state])
        legal = (state != DEAD) & ((region == entered) | (region == _ANY_REGION))
        position += 1
        last = legal & (size_V[token] == position)
        after_VZ[token[last], start[last]] = state[last]
        more = legal & ~last
        token, start, state, region = token[more], start[more], state[more], entered[more]
    return after_VZ


def _distinct_rows(rows_VZ: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distinct rows [C, Z] and which of them each row is [V]. Hashing rows takes a fiftieth of the time of sorting them."""
    number: dict[bytes, int] = {}
    which_V = [number.setdefault(row_Z.tobytes(), len(number)) for row_Z in rows_VZ]
    return np.frombuffer(b"".join(number), rows_VZ.dtype).reshape(len(number), -1), np.array(which_V)


def _distances(after_CZ: np.ndarray) -> np.ndarray:
    """Returns the fewest tokens from each state to DONE, found backwards from there."""
    distance_Z = np.full(after_CZ.shape[1], UNREACHABLE)
    distance_Z[DONE] = 0
    while True:
        nearer_Z = np.minimum(distance_Z, 1 + distance_Z[after_CZ].min(axis=0))
        if np.array_equal(nearer_Z, distance_Z):
            return distance_Z
        distance_Z = nearer_Z


def _numbers(pieces: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Returns value and number of digits, [V] each, of the tokens that are ASCII digits after at most one space."""
    number_V, digits_V = np.zeros((2, len(pieces)), np.int32)
    for token, piece in enumerate(pieces):
        body = piece.removeprefix(b" ")
        if body.isdigit() and len(body) <= _MAX_DIGITS:
            number_V[token], digits_V[token] = int(body), len(body)
    return number_V, digits_V
