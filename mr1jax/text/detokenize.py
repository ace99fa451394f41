"""From tokens to bytes inside the compiled program. What the bytes say is the business of `scoring` and `words`."""

import chex
import jax.numpy as jnp

from mr1jax.structs import Array
from mr1jax.text.tokenizer import ByteTable


def token_bytes(table: ByteTable, tokens_R: Array, length: Array, capacity: int) -> tuple[Array, Array]:
    """Writes the bytes of the first `length` tokens one after another.

    tokens_R: int32[R], length: int32[]. Returns uint8[capacity], 0 past the last byte, and int32[] the bytes there are:
    more than `capacity` means that the text was cut. A token beyond the table stands for no bytes. Work and memory are O(R + capacity),
    whatever the vocabulary; one example, use `vmap`.

    Tokens "He", "llo" of 2 and 3 bytes, capacity 6: owner 0 0 1 1 1 1, offset within the owner 0 1 0 1 2 3, the last one masked.
    """
    chex.assert_rank([tokens_R, length], [1, 0])
    (num_tokens,) = tokens_R.shape
    position_R = jnp.arange(num_tokens)
    position_A = jnp.arange(capacity)
    count_R = jnp.where(position_R < length, table.offset[tokens_R + 1] - table.offset[tokens_R], 0)
    end_R = jnp.cumsum(count_R)
    owner_A = jnp.repeat(position_R, count_R, total_repeat_length=capacity)
    source_A = table.offset[tokens_R[owner_A]] + position_A - (end_R - count_R)[owner_A]
    bytes_A = jnp.where(position_A < end_R[-1], table.data[source_A], 0)
    return bytes_A.astype(jnp.uint8), end_R[-1]


def shift(array_A: Array, places: int, fill: int | bool) -> Array:
    """Moves an array by `places` to higher positions, or to lower ones if negative. What becomes free is filled, what leaves is lost."""
    (size,) = array_A.shape
    padded = jnp.pad(array_A, abs(places), constant_values=fill)
    return padded[abs(places) - places :][:size]
