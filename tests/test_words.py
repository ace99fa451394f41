"""Words of a text: the program hashes the very words the host lists, and forms of one word meet."""

import random
import string

import jax
import numpy as np
import pytest

from mr1jax.structs import NO_TERM
from mr1jax.text.words import hash_word, hash_words, words

CAPACITY = 96
NUM_TERMS = 6
FRAGMENTS = [
    "dog",
    "s",
    "es",
    "ies",
    "ie",
    "y",
    "e",
    "us",
    "ss",
    "x",
    "z",
    "sh",
    "o",
    "i",
    "box",
    "City",
    "THE",
    "what",
    "is",
    "1",
    "90",
    "t",
]
FRAGMENTS += [
    " ",
    " ",
    " ",
    "\n",
    "\t",
    "'",
    "’",
    "-",
    "—",
    ".",
    "_",
    "\u200b",
    "\u2000",
    "\u207f",
    "\u2080",
    "\u1fff",
    "é",
    "É",
    "日本",
    "🌟",
]
FRAGMENTS += ["\u00a0", "\x00", "\x7f", "@"]


@pytest.fixture(scope="module")
def texts():
    rng = random.Random(0)
    found = ["".join(rng.choices(FRAGMENTS, k=rng.randint(0, 24))) for _ in range(5000)]
    return [text for text in found if len(text.encode()) <= CAPACITY]


@pytest.fixture(scope="module")
def hashed():
    """int32[B, NUM_TERMS] of a list of texts, behind which lie random bytes."""
    compiled = jax.jit(jax.vmap(lambda bytes_A, length: hash_words(bytes_A, length, NUM_TERMS)))

    def call(texts, seed=0):
        bytes_BA = np.random.default_rng(seed).integers(0, 256, (len(texts), CAPACITY), np.uint8)
        encoded = [text.encode() for text in texts]
        for row, text in zip(bytes_BA, encoded, strict=True):
            row[: len(text)] = np.frombuffer(text, np.uint8)
        return np.asarray(compiled(bytes_BA, np.array([len(text) for text in encoded], np.int32)))

    return call


def test_hashes_equal_the_host(hashed, texts):
    """Oracle: `words` and `hash_word`, plain Python, on thousands of random texts; most have words, some more than fit."""
    expected = [[hash_word(word) for word in words(text)] for text in texts]
    assert hashed(texts).tolist() == [(row + [NO_TERM] * NUM_TERMS)[:NUM_TERMS] for row in expected]
    assert len(texts) > 4000
    assert sum(len(row) > NUM_TERMS for row in expected) > 10


def test_junk_past_the_end_changes_nothing(hashed, texts):
    """Oracle: the same texts before other junk, bit for bit."""
    assert np.array_equal(hashed(texts, seed=1), hashed(texts, seed=2))


@pytest.mark.parametrize(
    "forms",
    [
        "dog dogs dog's dogs' dog’s Dogs DOG, (dog) “dog” dog—",
        "box boxes",
        "city cities city's",
        "movie movies",
        "cookie cookies",
        "watch watches",
        "dress dresses",
        "house houses",
        "tomato tomatoes",
        "bus buses",
        "day days",
        "pie pies",
        "1990 1990s",
        "café cafés",
    ],
)
def test_forms_of_a_word_meet(forms):
    """Oracle: English. Singular, plural and possessive, whatever is around them, are one word."""
    assert len({word for form in forms.split() for word in words(form)}) == 1
    assert all(len(words(form)) == 1 for form in forms.split())


@pytest.mark.parametrize("pair", ["bus bu", "glass glas", "his hi", "care car", "rose row", "as a", "gas ga", "café caf"])
def test_other_words_stay_apart(pair):
    """Oracle: English. What only looks like a plural keeps its ending, and a word keeps its letters."""
    first, second = (words(word) for word in pair.split())
    assert not first or first != second


def test_function_words_take_no_room(hashed):
    """Oracle: by hand, the two words of a question that say what it is about, in place of all that surrounds them."""
    question = "What is it that the dogs of Anna's do, and who did that?"
    assert words(question) == ["dog", "anna"]
    assert hashed([question])[0].tolist() == [hash_word("dog"), hash_word("anna")] + [NO_TERM] * (NUM_TERMS - 2)


def test_hashes_keep_words_apart():
    """Oracle: the count of 50,000 random words and of all 27 thousand of one to three letters; none is NO_TERM, all are int32."""
    rng = random.Random(0)
    letters = string.ascii_lowercase
    found = {"".join(rng.choices(letters, k=rng.randint(4, 12))) for _ in range(50_000)}
    found |= {a + b + c for a in letters for b in ["", *letters] for c in ["", *letters]}
    hashes = {hash_word(word) for word in found}
    assert len(found) - len(hashes) <= 4  # 75,000 draws of 2^31 share a value 1.3 times on average
    assert min(hashes) > NO_TERM
    assert max(hashes) < 2**31
