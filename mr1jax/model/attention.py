"""Attention in which the G responses to a prompt share that prompt's keys and values."""

import chex
import jax
import jax.numpy as jnp

from mr1jax.structs import Array

MASKED = -1e30  # finite, so that a row without anything to attend to yields numbers and not NaN


def attend(
    query_PGXHC: Array,
    key_PGYJC: Array,
    value_PGYJC: Array,
    mask_XY: Array,
    prefix_key_PLJC: Array | None = None,
    prefix_value_PLJC: Array | None = None,
    prefix_mask_PL: Array | None = None,
) -> Array:
    """Attends to a row's own Y tokens and to a prefix that all rows of a group share, under one softmax.

    Query head h reads key-value head h // (H / J) (grouped-query attention, arXiv 2305.13245). The prefix enters as a batched matrix
    product with the group on the query side, so neither it nor the key-value heads are ever repeated in memory.

    Args:
      query_PGXHC, key_PGYJC, value_PGYJC: float, rotated already; not yet scaled.
      mask_XY: bool, which own tokens a query sees.
      prefix_key_PLJC, prefix_value_PLJC, prefix_mask_PL: the shared prefix; all three or none.

    Returns:
      float[P, G, X, H, C] in the query's dtype. Scores and softmax are float32.
    """
    P, G, X, H, C = query_PGXHC.shape
    J = key_PGYJC.shape[3]
    chex.assert_shape(mask_XY, (X, key_PGYJC.shape[2]))
    # I = H / J heads share a key-value head. With (P, J) leading both products are plain batched matrix products.
    query_PJGIXC = (query_PGXHC * C**-0.5).reshape(P, G, X, J, H // J, C).transpose(0, 3, 1, 4, 2, 5)

    score = jnp.einsum("PJGIXC,PGYJC->PJGIXY", query_PJGIXC, key_PGYJC, preferred_element_type=jnp.float32)
    score = jnp.where(mask_XY[None, None, None, None], score, MASKED)
    if prefix_key_PLJC is None:
        peak = jnp.max(score, axis=-1, keepdims=True, initial=MASKED)
        mixed, total = _mix(score, peak, "PJGIXY,PGYJC->PJGIXC", value_PGYJC)
    else:
        prefix_score = jnp.einsum("PJGIXC,PLJC->PJGIXL", query_PJGIXC, prefix_key_PLJC, preferred_element_type=jnp.float32)
        prefix_score = jnp.where(prefix_mask_PL[:, None, None, None, None], prefix_score, MASKED)
        peak = jnp.maximum(jnp.max(score, axis=-1, keepdims=True, initial=MASKED), jnp.max(prefix_score, axis=-1, keepdims=True))
        own, own_total = _mix(score, peak, "PJGIXY,PGYJC->PJGIXC", value_PGYJC)
        prefix, prefix_total = _mix(prefix_score, peak, "PJGIXL,PLJC->PJGIXC", prefix_value_PLJC)
        mixed, total = own + prefix, own_total + prefix_total
    return (mixed / total).transpose(0, 2, 4, 1, 3, 5).reshape(P, G, X, H, C).astype(query_PGXHC.dtype)


def _mix(score: Array, peak: Array, product: str, value: Array) -> tuple[Array, Array]:
    """Mixes values with unnormalised softmax weights: dividing once, after the parts are added, makes the softmax a joint one."""
    weight = jnp.exp(score - jax.lax.stop_gradient(peak))
    mixed = jnp.einsum(product, weight.astype(value.dtype), value, preferred_element_type=jnp.float32)
    return mixed, jnp.sum(weight, axis=-1, keepdims=True)
