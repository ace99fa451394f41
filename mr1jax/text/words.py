"""Words of a text as hashes, for lexical retrieval: inside the compiled program from bytes, and the same words on the host as strings.

A word is a run of ASCII letters and digits and of non-ASCII characters, lower-cased in ASCII, without its plural ending. Everything else
separates, and so does general punctuation (U+2000 to U+207F: curly quotes, dashes, wide spaces). Function words are dropped.
"""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np

from mr1jax.structs import NO_TERM, Array
from mr1jax.text.detokenize import shift

_MULTIPLIER = 0x9E3779B1  # odd, so that it has an inverse modulo 2^32
_INVERSE = pow(_MULTIPLIER, -1, 2**32)
_FOLDED = np.frombuffer(bytes(range(256)).lower(), np.uint8)
_LETTER = np.array([byte >= 0x80 or chr(byte).isalnum() for byte in range(256)])
_WORD = re.compile(rb"[0-9a-z\x80-\xff]+")
_GENERAL_PUNCTUATION = re.compile("[\u2000-\u207f]")  # in UTF-8: E2 80 xx and E2 81 xx
_MUTE_E_AFTER = np.isin(np.arange(256), list(b"hiosxz"))
_SHORTEST = 3  # letters that an ending leaves at least


def _stem(word: bytes) -> bytes:
    """Folds singular and plural into one form: dog/dogs, box/boxes, city/cities, movie/movies, but bus and glass keep their s.

    A final s goes unless it follows s or u; then a final e goes after h, i, o, s, x, z; then a final y becomes i. The S-stemmer of
    Harman (How effective is suffixing?, JASIS 42(1), 1991) with its rule for "ies" replaced by the last two.
    The result is a key to compare, not English. The possessive needs no rule: "dog's" is two words, and "s" is dropped.
    """
    if len(word) > _SHORTEST and word[-1:] == b"s" and word[-2:-1] not in b"su":
        word = word[:-1]
    if len(word) > _SHORTEST and word[-1:] == b"e" and _MUTE_E_AFTER[word[-2]]:
        word = word[:-1]
    return word[:-1] + b"i" if len(word) >= _SHORTEST and word[-1:] == b"y" else word


def hash_word(word: str) -> int:
    """Returns the hash of one of `words`, from 1 to 2^31 - 1: the polynomial sum_k byte_k m^k modulo 2^32, folded to 31 bits."""
    return _fold(sum(byte * pow(_MULTIPLIER, k, 2**32) for k, byte in enumerate(word.encode())) % 2**32)


def _fold(polynomial):
    """Brings a sum modulo 2^32, a Python int or an array, into 1 .. 2^31 - 1: an int32 that is never NO_TERM."""
    return polynomial % (2**31 - 1) + 1


# Words are dropped by their hash, so that host and program agree even on a word whose hash collides. The short ones end "don't", "Anna's".
_STOP_WORDS = """a an the and or of to in on at for with by from is are was were be been am do does did has have had i me my you your we our
it its this that he she his her they their what which who when where how s t d m re ve ll"""
_STOP_HASHES = frozenset(hash_word(_stem(word.encode()).decode()) for word in _STOP_WORDS.split())


def words(text: str) -> list[str]:
    """Returns the words of a text in order, stemmed, without function words: what `hash_words` hashes."""
    found = _WORD.findall(_GENERAL_PUNCTUATION.sub(" ", text).encode().lower())
    stems = [_stem(word).decode() for word in found]
    return [stem for stem in stems if hash_word(stem) not in _STOP_HASHES]


def hash_words(bytes_A: Array, length: Array, num_terms: int) -> Array:
    """Returns the hashes of the first `num_terms` words of a text, int32[num_terms], NO_TERM past the last.

    bytes_A: uint8[A], length: int32[]. Equals `[hash_word(word) for word in words(text)]`; repeated words are repeated. One example, O(A).
    The word in [start, stop) hashes to sum_{start <= i < stop} byte_i m^i, a difference of cumulative sums, times m^-start.
    """
    chex.assert_rank([bytes_A, length], [1, 0])
    (size,) = bytes_A.shape
    position_A = jnp.arange(size)
    bytes_A = jnp.where(position_A < length, jnp.asarray(_FOLDED)[bytes_A], 0)
    letter_A = jnp.asarray(_LETTER)[bytes_A] & ~_general_punctuation(bytes_A)
    start_A = jax.lax.cummax(jnp.where(letter_A & ~shift(letter_A, 1, fill=False), position_A, 0))  # of the word a letter is in
    bytes_A, letter_A = _stem_in_place(bytes_A, letter_A, position_A - start_A + 1)

    term_A = jnp.where(letter_A, bytes_A, 0).astype(jnp.uint32) * jnp.asarray(_powers(_MULTIPLIER, size))
    total_A = jnp.cumsum(term_A)
    polynomial_A = (total_A - (total_A - term_A)[start_A]) * jnp.asarray(_powers(_INVERSE, size))[start_A]
    hash_A = _fold(polynomial_A).astype(jnp.int32)
    word_A = _last_letters(letter_A) & ~jnp.isin(hash_A, jnp.array(sorted(_STOP_HASHES)))
    found_M = jnp.flatnonzero(word_A, size=num_terms, fill_value=size)
    return hash_A.at[found_M].get(mode="fill", fill_value=NO_TERM)


def _stem_in_place(bytes_A: Array, letter_A: Array, nth_A: Array) -> tuple[Array, Array]:
    """Applies `_stem` to every word: its dropped letters stop being letters. nth_A: int32[A], a letter's place in its word, from 1."""
    before_A = shift(bytes_A, 1, fill=0)
    plural_A = (bytes_A == ord("s")) & (before_A != ord("s")) & (before_A != ord("u"))
    letter_A &= ~(_last_letters(letter_A) & plural_A & (nth_A > _SHORTEST))
    mute_A = (bytes_A == ord("e")) & jnp.asarray(_MUTE_E_AFTER)[before_A]
    letter_A &= ~(_last_letters(letter_A) & mute_A & (nth_A > _SHORTEST))
    final_y_A = _last_letters(letter_A) & (bytes_A == ord("y")) & (nth_A >= _SHORTEST)
    return jnp.where(final_y_A, ord("i"), bytes_A), letter_A


def _last_letters(letter_A: Array) -> Array:
    return letter_A & ~shift(letter_A, -1, fill=False)


def _general_punctuation(bytes_A: Array) -> Array:
    """Marks the three bytes of every U+2000 to U+207F."""
    second_A = shift(bytes_A, -1, fill=0)
    lead_A = (bytes_A == 0xE2) & ((second_A == 0x80) | (second_A == 0x81))
    return lead_A | shift(lead_A, 1, fill=False) | shift(lead_A, 2, fill=False)


def _powers(base: int, count: int) -> np.ndarray:
    return np.array([pow(base, k, 2**32) for k in range(count)], np.uint32)
