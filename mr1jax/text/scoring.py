"""Scores of an answer against the gold answer, inside the compiled program: exact match, token F1 and BLEU-1, as array code on bytes.

A text is a pair (bytes, length): uint8[A] and int32[]; a length beyond A means a text that was cut, and what is left of it is scored.
Everything is for one example (use `vmap`) and equals the function of the same name in `metrics`, which is plain Python on strings.
"""

import string

import chex
import jax
import jax.numpy as jnp
import numpy as np

from mr1jax.structs import Array
from mr1jax.text.detokenize import shift

Text = tuple[Array, Array]

_SPACE = ord(" ")
_ARTICLES = (b"a", b"an", b"the")
_DELETED = np.isin(np.arange(256), list(string.punctuation.encode()))  # bool[256]
# What each byte counts as: lower case, and one kind of white space (that of bytes.split). Non-ASCII bytes stand for themselves.
_FOLDED = np.frombuffer(bytes(range(256)).lower().translate(bytes.maketrans(b"\t\n\v\f\r", b"     ")), np.uint8)


def normalize(text: Text) -> Text:
    """Lower-cases, deletes punctuation, deletes the words a, an and the, and leaves one space between words.

    The normalisation of SQuAD (arXiv 1606.05250, official script), in its order, restricted to ASCII: other bytes pass unchanged, so
    "É" and "é" stay two letters, and "—", "’" and the non-breaking space are letters too. Returns (uint8[A], int32[]), 0 past the length.
    """
    bytes_A, length = text
    chex.assert_rank([bytes_A, length], [1, 0])
    inside_A = jnp.arange(bytes_A.shape[0]) < length
    bytes_A = _spaced(_compact(jnp.asarray(_FOLDED)[bytes_A], inside_A & ~jnp.asarray(_DELETED)[bytes_A]))
    article_A = jnp.zeros_like(inside_A)
    for article in _ARTICLES:
        start_A = _word_starts(bytes_A)
        for ahead, byte in enumerate(article + b" "):
            start_A &= shift(bytes_A, -ahead, fill=_SPACE) == byte
        for behind in range(len(article)):
            article_A |= shift(start_A, behind, fill=False)
    bytes_A = jnp.where(article_A, _SPACE, bytes_A)
    letter_A = bytes_A != _SPACE
    between_A = shift(letter_A, -1, fill=False) & (jnp.cumsum(letter_A) > 0)  # the last space before a word, but for the first word
    return _compact(bytes_A, letter_A | between_A)


def exact_match(pred: Text, gold: Text) -> Array:
    """Returns float32[]: 1 if the two texts are equal once normalised, else 0."""
    (pred_A, pred_length), (gold_A, gold_length) = normalize(pred), normalize(gold)
    shared = min(pred_A.shape[0], gold_A.shape[0])
    same = (pred_length == gold_length) & jnp.all(pred_A[:shared] == gold_A[:shared])
    return same.astype(jnp.float32)


def token_f1(pred: Text, gold: Text) -> Array:
    """Returns the F1 of the words of two normalised texts, float32[].

    F1 = 2 P R / (P + R), P = m / |pred|, R = m / |gold|, with m = sum over words w of min(count of w in pred, count of w in gold).
    So F1 = 2 m / (|pred| + |gold|). Two texts without a word agree: 1. Source: SQuAD 2.0 (arXiv 1806.03822), official script.
    """
    matches, num_pred, num_gold = _word_overlap(pred, gold)
    return jnp.where(num_pred + num_gold == 0, 1.0, 2 * matches / jnp.maximum(num_pred + num_gold, 1))


def token_recall(pred: Text, gold: Text) -> Array:
    """Returns the share of the words of the normalised gold text that are in the other, float32[]: m / |gold|, m as in `token_f1`.

    1 for a gold text without a word.
    """
    matches, _, num_gold = _word_overlap(pred, gold)
    return jnp.where(num_gold == 0, 1.0, matches / jnp.maximum(num_gold, 1))


def bleu1(pred: Text, gold: Text) -> Array:
    """Returns the BLEU-1 of the words of two normalised texts against one reference, float32[].

    BLEU-1 = min(1, exp(1 - |gold| / |pred|)) * m / |pred|, m as in `token_f1`. No smoothing: it changes nothing at order 1, where no
    match scores 0. Two texts without a word agree: 1. Source: Papineni et al. 2002 (ACL P02-1040), section 2.3.
    """
    matches, num_pred, num_gold = _word_overlap(pred, gold)
    size = jnp.maximum(num_pred, 1)
    brevity = jnp.exp(jnp.minimum(1 - num_gold / size, 0.0))
    return jnp.where(num_pred + num_gold == 0, 1.0, brevity * matches / size)


def _word_overlap(pred: Text, gold: Text) -> tuple[Array, Array, Array]:
    """Returns the size of the multiset intersection of the words, and the number of words of each, int32[] each.

    Words are compared byte by byte, from the back, no hash. "From byte i of pred and byte j of gold on, the two words end alike" is
    rest[i, j] = (pred[i] == gold[j]) and (that byte is a space or rest[i + 1, j + 1]), and only row i is kept.
    Both texts are padded with spaces. A steps of A + B comparisons.
    """
    pred_A, gold_B = _spaced(normalize(pred)), _spaced(normalize(gold))
    pred_start_A, gold_start_B = _word_starts(pred_A), _word_starts(gold_B)
    position_A = jnp.arange(pred_A.shape[0])

    def visit(rest, byte_at):
        byte, position, is_start = byte_at
        rest_A, rest_B = (
            (other == byte) & ((byte == _SPACE) | shift(rest_other, -1, fill=True))
            for other, rest_other in zip((pred_A, gold_B), rest, strict=True)
        )
        earlier = jnp.sum(rest_A & pred_start_A & (position_A < position))
        matched = is_start & (earlier < jnp.sum(rest_B & gold_start_B))  # the n-th occurrence, if gold holds n of them
        return (rest_A, rest_B), matched

    past_the_end = (pred_A == _SPACE, gold_B == _SPACE)
    _, matched_A = jax.lax.scan(visit, past_the_end, (pred_A, position_A, pred_start_A), reverse=True)
    return jnp.sum(matched_A), jnp.sum(pred_start_A), jnp.sum(gold_start_B)


def _word_starts(bytes_A: Array) -> Array:
    return (bytes_A != _SPACE) & (shift(bytes_A, 1, fill=_SPACE) == _SPACE)


def _spaced(text: Text) -> Array:
    """Overwrites what lies past the length with spaces, so that the end of the text ends a word as a space does."""
    bytes_A, length = text
    return jnp.where(jnp.arange(bytes_A.shape[0]) < length, bytes_A, _SPACE)


def _compact(bytes_A: Array, keep_A: Array) -> Text:
    """Moves the kept bytes to the front, in order; 0 behind them."""
    (size,) = bytes_A.shape
    length = jnp.sum(keep_A)
    source_A = jnp.flatnonzero(keep_A, size=size, fill_value=0)
    return jnp.where(jnp.arange(size) < length, bytes_A[source_A], 0), length
