"""Attention in blocks, in which the G responses to a prompt share that prompt's keys and values.

No [X, Y] matrix of scores is ever whole: a block of queries meets one block of keys after another and keeps a running softmax, and the
backward pass computes the scores of a block again (arXiv 2205.14135, algorithms 1 and 4). What a query sees is said by one number, how
many of the first keys. So what a causal mask, padding or an unfilled cache leaves empty is, block by block, never visited. Where an
accelerator has a kernel that does the same, `attend` takes that; it is the one place that chooses.

Inside, queries are [P, J, G, I, X, C], where I = H / J query heads read one key-value head (grouped-query attention, arXiv 2305.13245). The
keys of a prompt have no G: its group is among the rows of the queries, and nothing is ever repeated in memory.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from mr1jax.model import kernels
from mr1jax.model.kernels import KEPT
from mr1jax.structs import Array

MASKED = -1e30  # finite, so that no difference of two is NaN
_UNSEEN = MASKED / 2  # where a running maximum starts: exp(MASKED - _UNSEEN) = 0, so a query that sees nothing gathers nothing
_TINY = 1e-30  # in the place of a denominator of 0
# Measured on a CPU: a block of scores of one key-value head should stay in a core's cache.
_MAX_ROWS = 128
_MAX_WIDTH = 512
_BLOCK_SCORES = 2**15
_LEAST_FOR_KERNEL = 128  # tokens: below, most of a kernel's block would be padding


class Keys(NamedTuple):
    """Keys and values, and how many of the first each query sees.

    key, value: float[P, J, G, Y, C], each response's own; or float[P, J, Y, C], which a group shares.
    seen: int32, broadcasts to [P, X]; None: as many as stand up to the query itself, of Y = X.
    """

    key: Array
    value: Array
    seen: Array | None = None


def attend(query_PGXHC: Array, *parts: Keys) -> Array:
    """Attends to the keys of all parts under one softmax. Query head h reads key-value head h // (H / J).

        softmax over the union of parts: sum_parts sum_y exp(s_xy) v_y / sum_parts sum_y exp(s_xy),   s_xy = q_x k_y / sqrt(C)

    query_PGXHC: float, rotated already; not yet scaled. parts: a response's own keys, and then those of its prompt, if any. Returns
    float[P, G, X, H, C] in the dtype of the query, 0 for a query that sees no key at all. Scores and softmax are float32. Forward
    derivatives are not defined.
    """
    P, G, X, H, C = query_PGXHC.shape
    if X == 0:  # a response of one token, which its prompt predicts
        return query_PGXHC
    own, *prompt = parts
    J = own.key.shape[1]
    query_PJGIXC = query_PGXHC.reshape(P, G, X, J, H // J, C).transpose(0, 3, 1, 4, 2, 5)
    platform = _platform() if own.seen is None and X >= _LEAST_FOR_KERNEL else "any"
    if platform == "tpu":
        prefix = (prompt[0].key, prompt[0].value, prompt[0].seen[:, 0]) if prompt else None
        mixed_PJGIXC = kernels.splash(query_PJGIXC, own.key, own.value, prefix)
    elif platform == "gpu" and not prompt and query_PGXHC.dtype == jnp.bfloat16:
        mixed_PJGIXC = kernels.cudnn(query_PJGIXC, own.key, own.value)
    else:
        mixed_PJGIXC = _in_blocks(query_PJGIXC, parts)
    return mixed_PJGIXC.transpose(0, 2, 4, 1, 3, 5).reshape(P, G, X, H, C)


def _platform() -> str:
    """Names what the program that is being traced will run on: the devices of its mesh, which need not be here, or else this process's."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def _in_blocks(query_PJGIXC: Array, parts: tuple[Keys, ...]) -> Array:
    X = query_PJGIXC.shape[-2]
    rows = _even(X, _MAX_ROWS)
    widths = tuple(_width(part, query_PJGIXC.shape, rows) for part in parts)
    padded = tuple(_pad_keys(part, width, (X, rows)) for part, width in zip(parts, widths, strict=True))
    return _attend(rows, widths, _padded(query_PJGIXC, rows, axis=4), padded)[..., :X, :]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(rows: int, widths: tuple[int, ...], query: Array, parts: tuple[Keys, ...]) -> Array:
    return _forward(rows, widths, query, parts)[0]


def _forward(rows: int, widths: tuple[int, ...], query: Array, parts: tuple[Keys, ...]) -> tuple[Array, tuple]:
    """Returns the mixed values, and what the backward pass needs: beside all of these the logarithm of each query's denominator."""

    def row(_, i: Array):
        scaled = _block(query, i, rows) * query.shape[-1] ** -0.5
        state = (jnp.full(scaled.shape[:-1], _UNSEEN), jnp.zeros(scaled.shape[:-1]), jnp.zeros(scaled.shape))
        for part, width in zip(parts, widths, strict=True):
            state = _visit(part, i, rows, width, partial(_gather, scaled), state)
        peak, total, mixed = state
        total = jnp.maximum(total, _TINY)
        return None, ((mixed / total[..., None]).astype(query.dtype), peak + jnp.log(total))

    _, (mixed, log_total) = jax.lax.scan(row, None, jnp.arange(query.shape[-2] // rows))
    mixed, log_total = checkpoint_name(_join(mixed, axis=-2), KEPT), checkpoint_name(_join(log_total, axis=-1), KEPT)
    return mixed, (query, parts, mixed, log_total)


def _gather(scaled: Array, state: tuple, _, key: Array, value: Array, visible: Array) -> tuple:
    """Adds a block of keys to a running softmax (peak, total, mixed)."""
    peak, total, mixed = state
    score = jnp.where(visible, _product("PJGIXC,PJGYC->PJGIXY", scaled, key), MASKED)
    new_peak = jnp.maximum(peak, jnp.max(score, axis=-1))
    weight, kept = jnp.exp(score - new_peak[..., None]), jnp.exp(peak - new_peak)
    gathered = _product("PJGIXY,PJGYC->PJGIXC", weight.astype(value.dtype), value)
    return new_peak, kept * total + jnp.sum(weight, axis=-1), kept[..., None] * mixed + gathered


def _backward(rows: int, widths: tuple[int, ...], saved: tuple, d_mixed: Array) -> tuple[Array, tuple[Keys, ...]]:
    """Sums the gradients over all pairs of blocks. With p the weights of the joint softmax and o what they mixed:

        dv_y = sum_x p_xy do_x     ds_xy = p_xy (do_x v_y - do_x o_x)     dk_y = sum_x ds_xy q_x     dq_x = sum_y ds_xy k_y

    Each part needs of the others nothing but their share in o and in the denominator, which `_forward` saved.
    """
    query, parts, mixed, log_total = saved
    drawn = jnp.sum(d_mixed.astype(jnp.float32) * mixed, axis=-1)
    scale = query.shape[-1] ** -0.5

    def row(d_parts: list[tuple[Array, Array]], i: Array):
        scaled, d_out = _block(query, i, rows) * scale, _block(d_mixed, i, rows)
        of_row = scaled, d_out, _block(log_total, i, rows, axis=-1), _block(drawn, i, rows, axis=-1)
        d_query, after = jnp.zeros(scaled.shape), []
        for part, width, (d_key, d_value) in zip(parts, widths, d_parts, strict=True):
            state = (d_query, d_key, d_value)
            d_query, *d_part = _visit(part, i, rows, width, partial(_scatter, of_row), state)
            after.append(tuple(d_part))
        return after, (scale * d_query).astype(query.dtype)

    zeros = [(jnp.zeros(part.key.shape), jnp.zeros(part.value.shape)) for part in parts]
    d_parts, d_query = jax.lax.scan(row, zeros, jnp.arange(query.shape[-2] // rows))
    of_parts = [
        Keys(d_key.astype(part.key.dtype), d_value.astype(part.value.dtype), None)
        for part, (d_key, d_value) in zip(parts, d_parts, strict=True)
    ]
    return _join(d_query, axis=-2), tuple(of_parts)


def _scatter(of_row: tuple, state: tuple, start: Array, key: Array, value: Array, visible: Array) -> tuple:
    """Adds what a block of queries and a block of keys, which begins at `start`, owe each other to (d_query, d_key, d_value)."""
    scaled, d_out, log_total, drawn = of_row
    d_query, d_key, d_value = state
    score = jnp.where(visible, _product("PJGIXC,PJGYC->PJGIXY", scaled, key), MASKED)
    weight = jnp.exp(score - log_total[..., None])
    d_score = (weight * (_product("PJGIXC,PJGYC->PJGIXY", d_out, value) - drawn[..., None])).astype(key.dtype)
    d_query += _product("PJGIXY,PJGYC->PJGIXC", d_score, key)
    d_key = _add_at(d_key, start, "PJGIXY,PJGIXC->PJGYC", d_score, scaled)
    return d_query, d_key, _add_at(d_value, start, "PJGIXY,PJGIXC->PJGYC", weight.astype(value.dtype), d_out)


_attend.defvjp(_forward, _backward)


def _visit(part: Keys, i: Array, rows: int, width: int, meet: Callable, state: Any) -> Any:
    """Lets the i-th block of queries meet each block of keys of which it sees any: state = meet(state, start, key, value, visible)."""
    seen_PX = _block(part.seen, i, rows, axis=-1)

    def step(j, state):
        key, value = _block(part.key, j, width), _block(part.value, j, width)
        index_Y = j * width + jnp.arange(width)
        visible = index_Y[None, None, None, None, None] < seen_PX[:, None, None, None, :, None]
        return meet(state, j * width, key, value, visible)

    if part.key.shape[-2] == width:
        return step(0, state)
    return jax.lax.fori_loop(0, -(-jnp.max(seen_PX) // width), step, state)


def _product(product: str, a: Array, b: Array) -> Array:
    """Multiplies in float32; an operand that a group shares has no G."""
    first, second, result = product.replace(",", "->").split("->")
    if b.ndim < len(second):
        second = second.replace("G", "")
    return jnp.einsum(f"{first},{second}->{result}", a, b, preferred_element_type=jnp.float32)


def _add_at(full: Array, start: Array, product: str, a: Array, b: Array) -> Array:
    """Adds a product to the block of an accumulator that begins at `start`, in place; over the group where that shares the accumulator."""
    if full.ndim < a.ndim - 1:
        product = product.replace("->PJGYC", "->PJYC")
    part = jnp.einsum(product, a, b, preferred_element_type=jnp.float32)
    before = jax.lax.dynamic_slice_in_dim(full, start, part.shape[-2], axis=-2)
    return jax.lax.dynamic_update_slice_in_dim(full, before + part, start, axis=-2)


def _even(size: int, most: int) -> int:
    """Divides a size into blocks as equal as can be, none above `most`; returns theirs."""
    return -(-size // -(-size // most))


def _width(part: Keys, query_shape: tuple[int, ...], rows: int) -> int:
    """Chooses how many keys meet a block of queries at once: as many as keep the block of scores small."""
    _, _, G, heads, _, _ = query_shape
    tall = heads * rows * (1 if part.key.ndim == 5 else G)
    width = 2 ** max(5, math.floor(math.log2(_BLOCK_SCORES / tall)))
    return _even(part.key.shape[-2], min(width, _MAX_WIDTH))


def _pad_keys(part: Keys, width: int, queries: tuple[int, int]) -> Keys:
    """Fills the last block of keys, and gives every query its number: those that fill the last block of queries see nothing."""
    size, rows = queries
    seen_PX = jnp.arange(1, size + 1)[None] if part.seen is None else jnp.broadcast_to(part.seen, (part.seen.shape[0], size))
    return Keys(_padded(part.key, width, axis=-2), _padded(part.value, width, axis=-2), _padded(seen_PX, rows, axis=1))


def _padded(x: Array, multiple: int, axis: int) -> Array:
    missing = -x.shape[axis] % multiple
    if not missing:
        return x
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, missing)
    return jnp.pad(x, widths)


def _block(x: Array, i: Array, size: int, axis: int = -2) -> Array:
    return jax.lax.dynamic_slice_in_dim(x, i * size, size, axis=axis)


def _join(blocks: Array, axis: int) -> Array:
    """Puts blocks, which lie along the leading axis, behind each other along another."""
    blocks = jnp.moveaxis(blocks, 0, axis - 1)
    return blocks.reshape(*blocks.shape[: axis - 1], -1, *blocks.shape[blocks.ndim + axis + 1 :])
