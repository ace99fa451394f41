"""Masked reductions: the one place that divides by the sum of a mask.

What stands at a masked position is junk, NaN and infinity included: it reaches neither the value nor the gradient. So a mask is always
applied by `where`, never by multiplication, and before the arithmetic that the junk could upset (0 * NaN is NaN, and so is the gradient of
`where(mask, exp(x), 0)` at a masked x of infinity).
"""

import chex
import jax.numpy as jnp

from mr1jax.structs import Array


def zero_masked(x: Array, mask: Array) -> Array:
    """Puts 0 where the mask is False. x: [...], mask: bool[...] of the same shape; the gradient there is exactly 0."""
    chex.assert_equal_shape([x, mask])
    chex.assert_type(mask, bool)
    return jnp.where(mask, x, jnp.zeros_like(x))


def masked_sum(x: Array, mask: Array, axis: int | tuple[int, ...] | None = None) -> Array:
    """Sums x over the positions where the mask is True, in float32. x: [...], mask: bool[...] of the same shape."""
    return jnp.sum(zero_masked(x, mask), axis=axis, dtype=jnp.float32)


def masked_mean(x: Array, mask: Array, axis: int | tuple[int, ...] | None = None) -> Array:
    """Averages x over the positions where the mask is True, in float32; 0 where there are none. Shapes as in `masked_sum`."""
    count = jnp.sum(mask, axis=axis, dtype=jnp.float32)
    return masked_sum(x, mask, axis) / jnp.maximum(count, 1.0)
