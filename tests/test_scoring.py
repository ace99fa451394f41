"""Scores inside the program: equal to the host's on every text, whatever lies past the end of an array."""

import itertools
import math
import random

import jax
import numpy as np
import pytest

from mr1jax.text import metrics, scoring

CAPACITY = 64
NUM_PAIRS = 3000
FRAGMENTS = [
    "a",
    "an",
    "the",
    "The",
    "AN",
    "A",
    "t",
    "he",
    "n",
    "dog",
    "dogs",
    "Dog",
    "x",
    "Z",
    "1",
    "23",
    " ",
    " ",
    "  ",
    "\t",
    "\n",
    "\r\n",
    "\v\f",
]
FRAGMENTS += [".", ",", "'", "-", "!", "(", "_", "`", "é", "É", "’", "—", "日本", "🌟", "\u00a0", "\u2003", "\x85", "\x00", "\x1c", "\x7f"]


def pack(texts, capacity=CAPACITY, seed=0):
    """uint8[B, capacity] and int32[B]: UTF-8, and random bytes where there is no text, which must not matter."""
    encoded = [text.encode() for text in texts]
    bytes_BA = np.random.default_rng(seed).integers(0, 256, (len(texts), capacity), np.uint8)
    for row, text in zip(bytes_BA, encoded, strict=True):
        row[: len(text)] = np.frombuffer(text, np.uint8)[:capacity]
    return bytes_BA, np.array([len(text) for text in encoded], np.int32)


def unpack(bytes_BA, length_B):
    return [row[:length].tobytes() for row, length in zip(np.asarray(bytes_BA), length_B, strict=True)]


def random_text(rng):
    while True:
        text = "".join(rng.choices(FRAGMENTS, k=rng.randint(0, 20)))
        if len(text.encode()) <= CAPACITY:
            return text


def relative(rng, text):
    """A text that often scores between 0 and 1 against `text`: its words in another order, some lost, some twice, in another case."""
    words = text.split()
    changed = " ".join(rng.choices(words, k=rng.randint(1, len(words)))) if words else "!"
    changed = rng.choice([text, changed, changed.upper(), f"the {changed}."])
    return changed if len(changed.encode()) <= CAPACITY else text


@pytest.fixture(scope="module")
def pairs():
    rng = random.Random(0)
    golds = [random_text(rng) for _ in range(NUM_PAIRS)]
    return [relative(rng, gold) if rng.random() < 0.8 else random_text(rng) for gold in golds], golds


@pytest.fixture(scope="module")
def normalize():
    return jax.jit(jax.vmap(scoring.normalize))


@pytest.fixture(scope="module")
def score():
    """All three scores of two lists of texts, each float32[B]. Lists are filled up to one size, so that few shapes are compiled."""
    compiled = jax.jit(jax.vmap(lambda pred, gold: [f(pred, gold) for f in (scoring.exact_match, scoring.token_f1, scoring.bleu1)]))

    def call(preds, golds, capacity=CAPACITY, seed=0):
        filler = [""] * (NUM_PAIRS - len(preds))
        scores = compiled(pack(preds + filler, capacity, seed), pack(golds + filler, seed=seed + 1))
        return [np.asarray(each)[: len(preds)] for each in scores]

    return call


def host_scores(preds, golds):
    return [[f(*pair) for pair in zip(preds, golds, strict=True)] for f in (metrics.exact_match, metrics.token_f1, metrics.bleu1)]


def test_normalize_equals_the_host(normalize, pairs):
    """Oracle: `metrics.normalize_answer` on 6,000 random texts of articles, punctuation, all spaces and four lengths of UTF-8."""
    texts = [*pairs[0], *pairs[1]]
    bytes_BA, length_B = normalize(pack(texts))
    assert unpack(bytes_BA, length_B) == [metrics.normalize_answer(text).encode() for text in texts]
    assert not np.asarray(bytes_BA)[np.arange(CAPACITY) >= np.asarray(length_B)[:, None]].any()


def test_normalize_equals_the_host_on_all_short_texts(normalize):
    """Oracle: `metrics.normalize_answer` on all 37,449 texts of up to five characters of "anthe", space, hyphen and A, no byte to spare."""
    texts = ["".join(chars) for size in range(6) for chars in itertools.product("anthe -A", repeat=size)]
    assert unpack(*normalize(pack(texts, capacity=5))) == [metrics.normalize_answer(text).encode() for text in texts]


def test_scores_equal_the_host(score, pairs):
    """Oracle: `metrics` on 3,000 random pairs, of which at least 500 score strictly between 0 and 1."""
    expected = host_scores(*pairs)
    exact, f1, bleu = score(*pairs)
    assert exact.dtype == f1.dtype == bleu.dtype == np.float32
    assert exact.tolist() == expected[0]
    np.testing.assert_allclose(f1, expected[1], rtol=1e-6)
    np.testing.assert_allclose(bleu, expected[2], rtol=1e-6)
    assert sum(0 < value < 1 for value in expected[1]) > 500
    assert 500 < sum(expected[0]) < 2500


def test_junk_past_the_end_changes_nothing(score, pairs):
    """Oracle: the same texts before other junk, bit for bit."""
    assert np.array_equal(score(*pairs, seed=2), score(*pairs, seed=4))


def test_a_cut_text_is_scored_by_what_is_left(score, pairs):
    """Oracle: `metrics` on the first 12 bytes of predictions whose length says that there were more; golds keep 64 bytes."""
    preds = [text for text in pairs[0] if text.isascii()]
    golds = [gold for text, gold in zip(*pairs, strict=True) if text.isascii()]
    np.testing.assert_allclose(score(preds, golds, capacity=12), host_scores([text[:12] for text in preds], golds), rtol=1e-6)
    assert sum(len(text) > 12 for text in preds) > 100


def test_scores_by_hand(score):
    """Oracle: hand computation from the equations in the docstrings: exact match, F1, BLEU-1."""
    cases = [
        ("The Beach!", "beach", (1, 1, 1)),
        ("red", "red car now", (0, 0.5, math.exp(-2))),  # P = 1, R = 1/3; brevity exp(1 - 3/1)
        ("beach beach beach", "beach", (0, 0.5, 1 / 3)),  # one match only
        ("b b c", "b c c d", (0, 4 / 7, math.exp(-1 / 3) * 2 / 3)),  # two matches of 3 and 4 words
        ("dog", "dogs", (0, 0, 0)),
        ("dogs", "dog", (0, 0, 0)),
        ("the", "a, an", (1, 1, 1)),  # neither has a word
        ("", "beach", (0, 0, 0)),
        ("beach", "", (0, 0, 0)),
        ("selfcare", "self-care", (1, 1, 1)),
        ("É", "é", (0, 0, 0)),  # no case outside ASCII
        ("red " + "x" * 60, "x" * 60 + " red", (0, 1, 1)),  # words that end with the last byte there is room for
    ]
    preds, golds, expected = map(list, zip(*cases, strict=True))
    np.testing.assert_allclose(np.transpose(score(preds, golds)), expected, rtol=1e-6)
