"""Packing against plain Python lists."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mr1jax.structs import PAD
from mr1jax.text.packing import Segment, check_budget, constant, join_rows, keep_within, pack

JUNK = 999  # stands past every length; must never come out


def ragged(rng, capacity):
    """A random segment with junk past its length, and the list it stands for."""
    length = rng.integers(0, capacity + 1)
    tokens = np.full(capacity, JUNK)
    tokens[:length] = rng.integers(1, 900, length)
    return Segment(jnp.asarray(tokens, jnp.int32), jnp.int32(length)), tokens[:length].tolist()


def padded(tokens, length):
    return (tokens + [PAD] * length)[:length]


@functools.partial(jax.jit, static_argnums=1)
def jitted_pack(segments, length):
    return pack(segments, length)


@pytest.mark.parametrize("length", [1, 12, 40])
def test_pack_is_list_concatenation(length):
    """Oracle: list concatenation, cut and padded, over 100 ragged inputs some empty; 1 and 12 overflow now and then, 40 never."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        pairs = [ragged(rng, capacity) for capacity in (5, 0, 1, 9, 3)]
        expected = sum((tokens for _, tokens in pairs), [])
        tokens_L, num_tokens = jitted_pack([segment for segment, _ in pairs], length)
        assert tokens_L.tolist() == padded(expected, length)
        assert num_tokens == min(len(expected), length)


def test_constant_is_its_tokens():
    """Oracle: the list itself, also where it is empty."""
    for tokens in ([], [7], [3, 1, 4]):
        tokens_L, num_tokens = pack([constant(tokens), constant([8])], 5)
        assert tokens_L.tolist() == padded(tokens + [8], 5)
        assert num_tokens == len(tokens) + 1
        assert tokens_L.dtype == num_tokens.dtype == jnp.int32


def test_join_rows_is_concatenation_of_the_kept():
    """Oracle: list concatenation of the kept rows; dropped rows and places past a length hold junk."""
    rng = np.random.default_rng(1)
    join = jax.jit(join_rows)
    for _ in range(100):
        pairs = [ragged(rng, 4) for _ in range(6)]
        keep = rng.random(6) < 0.6
        expected = sum((tokens for (_, tokens), kept in zip(pairs, keep, strict=True) if kept), [])
        segment = join(jnp.stack([s.tokens for s, _ in pairs]), jnp.stack([s.length for s, _ in pairs]), jnp.asarray(keep))
        assert segment.tokens.tolist() == padded(expected, 24)
        assert segment.length == len(expected)


def keep_greedily(length, rank, mask, room):
    """The budget rule as a loop: admit from the best rank, stop at the first that does not fit."""
    keep = [False] * len(length)
    for index in sorted((i for i in range(len(length)) if mask[i]), key=lambda i: rank[i]):
        room -= length[index]
        if room < 0:
            break
        keep[index] = True
    return keep


def test_keep_within_admits_by_rank():
    """Oracle: a greedy loop over 300 random memory lists; room 0, masked rows with junk lengths, ranks in any order, zero lengths."""
    rng = np.random.default_rng(2)
    keep_jit = jax.jit(keep_within)
    for _ in range(300):
        length, rank, mask = rng.integers(0, 6, 7), rng.permutation(7), rng.random(7) < 0.7
        length = np.where(mask, length, JUNK)
        room = int(rng.choice([0, 1, 5, 10, 15, 100]))
        assert keep_jit(length, rank, mask, room).tolist() == keep_greedily(length, rank, mask, room)


def test_vmap_is_a_loop():
    """Oracle: the same prompts built one at a time; the constant is shared, memories, question and room differ by row."""
    rng = np.random.default_rng(3)

    @jax.jit
    def build(memory_tokens_KX, memory_length_K, mask_K, question):
        instructions = constant([1, 2, 3])
        keep_K = keep_within(memory_length_K, jnp.arange(5), mask_K, 16 - 3 - question.length)
        return pack([instructions, join_rows(memory_tokens_KX, memory_length_K, keep_K), question], 16)

    rows = [(rng.integers(1, 900, (5, 4)), rng.integers(0, 5, 5), rng.random(5) < 0.8, ragged(rng, 6)[0]) for _ in range(8)]
    batch = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *rows)
    tokens_BL, num_tokens_B = jax.vmap(build)(*batch)
    for row, tokens_L, num_tokens in zip(rows, tokens_BL, num_tokens_B, strict=True):
        expected_L, expected_num = build(*jax.tree.map(jnp.asarray, row))
        assert tokens_L.tolist() == expected_L.tolist()
        assert num_tokens == expected_num
        question = row[3].tokens[: int(row[3].length)].tolist()
        assert tokens_L.tolist()[int(num_tokens) - len(question) : int(num_tokens)] == question  # never cut


def test_check_budget_names_the_setting():
    """Oracle: the sentence a user should read; the exact fit passes."""
    check_budget("answerer.prompt_length", 92, 80, 12)
    message = (
        "prompt budget of 64 tokens is smaller than the instructions and the question (92 tokens); "
        "set answerer.prompt_length to at least 92 plus room for memories"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        check_budget("answerer.prompt_length", 64, 80, 12)
