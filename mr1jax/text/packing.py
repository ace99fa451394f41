"""Builds prompts inside jit: ragged concatenation of constant and variable pieces, under a budget of tokens.

A prompt is a list of `Segment`s. Their order and capacities are fixed when the program is traced, their lengths are data, so
one compiled program packs every prompt. All functions here are for one example; `vmap` them.
"""

from collections.abc import Sequence

import chex
import jax.numpy as jnp
from flax import struct

from mr1jax.config import require
from mr1jax.structs import PAD, Array


@struct.dataclass
class Segment:
    """A piece of text of fixed capacity X: tokens int32[X], of which the first length int32[] count. The rest is junk."""

    tokens: Array
    length: Array


def constant(tokens: Sequence[int]) -> Segment:
    """Makes a segment of the given tokens, all of them in use."""
    return Segment(tokens=jnp.asarray(tokens, jnp.int32).reshape(-1), length=jnp.int32(len(tokens)))


def pack(segments: Sequence[Segment], length: int) -> tuple[Array, Array]:
    """Concatenates the used part of each segment into tokens_L, left aligned, PAD after it.

    Returns (tokens int32[L], num_tokens int32[]) with L = length. What does not fit is cut off at the right: keep the variable
    segments within what the others leave (`keep_within`) and nothing ever is.
    """
    chex.assert_rank([segment.tokens for segment in segments], 1)
    starts, capacity = [], 0
    for segment in segments:
        starts.append(capacity)
        capacity += segment.tokens.shape[0]
    tokens_X = jnp.concatenate([segment.tokens for segment in segments])
    return _concatenate(tokens_X, jnp.asarray(starts), jnp.stack([segment.length for segment in segments]), length)


def join_rows(tokens_KX: Array, length_K: Array, keep_K: Array) -> Segment:
    """Concatenates the used part of each kept row into one segment of capacity K * X."""
    chex.assert_equal_shape_prefix([tokens_KX, length_K, keep_K], 1)
    num_rows, width = tokens_KX.shape
    starts_K = jnp.arange(num_rows) * width
    return Segment(*_concatenate(tokens_KX.reshape(-1), starts_K, jnp.where(keep_K, length_K, 0), num_rows * width))


def keep_within(length_K: Array, rank_K: Array, mask_K: Array, room: Array | int) -> Array:
    """Chooses the memories that stay when only room tokens are left for them: keep bool[K].

    Memories enter from the best rank (the smallest number; ranks are distinct) until the first that does not fit; it and all that
    rank below it go, even a shorter one that would still fit. So more room never removes a memory, and no memory stays while
    a better one goes. Where mask is False there is no memory, and it costs nothing. length_K counts all that a memory adds to the prompt.
    """
    chex.assert_equal_shape([length_K, rank_K, mask_K])
    not_after_KK = (rank_K[None, :] <= rank_K[:, None]) & mask_K[None, :]
    needed_K = jnp.sum(jnp.where(not_after_KK, length_K[None, :], 0), axis=1)
    return mask_K & (needed_K <= room)


def check_budget(setting: str, budget: int, num_instruction_tokens: int, num_question_tokens: int) -> None:
    """Raises `ValueError` if the parts that are never cut (the instructions and the longest question) exceed the budget.

    setting names the field to change, such as "answerer.prompt_length". Call it on the host before anything compiles.
    """
    needed = num_instruction_tokens + num_question_tokens
    require(
        needed <= budget,
        f"prompt budget of {budget} tokens is smaller than the instructions and the question ({needed} tokens); "
        f"set {setting} to at least {needed} plus room for memories",
    )


def _concatenate(tokens_X: Array, start_N: Array, length_N: Array, size: int) -> tuple[Array, Array]:
    """Copies N pieces of tokens_X, each from its start, one after the other into size places.

    A gather, which is far cheaper than a scatter on every backend: each place finds its piece, then its token. With lengths
    2, 0, 1 the pieces end at 2, 2, 3, so places 0, 1, 2, 3 are in pieces 0, 0, 2 and none.
    """
    end_N = jnp.cumsum(length_N)
    place = jnp.arange(size)
    piece = jnp.searchsorted(end_N, place, side="right", method="compare_all")
    source = place + (start_N - (end_N - length_N)).at[piece].get(mode="clip")
    total = jnp.minimum(end_N[-1], size).astype(jnp.int32)
    return jnp.where(place < total, tokens_X.at[source].get(mode="clip"), PAD), total
