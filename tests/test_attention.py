"""Attention against loops in numpy, float64: one query, one head, one key at a time, with the gradient worked out by hand."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import unoptimised  # noqa: F401

from mr1jax.model import attention
from mr1jax.model.attention import Keys, attend

P, G, H, J, C = 2, 3, 4, 2, 8


class Case(NamedTuple):
    """Sizes of a call. own: keys of each response; prefix: keys of each prompt, 0 for none; seen: int32, of each, or causal."""

    queries: int
    own: int
    own_seen: np.ndarray | None = None
    prefix: int = 0
    prefix_seen: np.ndarray = np.zeros((1, 1), np.int32)


RAGGED = np.array([[11], [4]], np.int32)
CASES = {
    "a prompt": Case(13, 13),
    "responses": Case(10, 10, None, 11, RAGGED),
    "an empty prompt": Case(6, 6, None, 7, np.array([[7], [0]], np.int32)),
    "one token, cached": Case(1, 12, np.array([[5]], np.int32), 11, RAGGED),
}
CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@pytest.fixture(params=["whole", "blocks"])
def blocks(request, monkeypatch):
    """Both forms: one block that holds all, and blocks of four, of which the last is filled up."""
    if request.param == "blocks":
        monkeypatch.setattr(attention, "_MAX_ROWS", 4)
        monkeypatch.setattr(attention, "_MAX_WIDTH", 4)


def draw(case, dtype=np.float32):
    """(query, [(key, value) of each part], gradient of the result), normally distributed."""
    rng = np.random.default_rng(0)
    shapes = [(P, J, G, case.own, C)] + [(P, J, case.prefix, C)] * (case.prefix > 0)
    query, d_mixed = rng.standard_normal((2, P, G, case.queries, H, C)).astype(dtype)
    return query, [tuple(rng.standard_normal((2, *shape)).astype(dtype)) for shape in shapes], d_mixed


def seen_by(case):
    own = np.arange(1, case.queries + 1)[None] if case.own_seen is None else case.own_seen
    return [np.broadcast_to(seen, (P, case.queries)) for seen in (own, case.prefix_seen)]


def run(case, query, parts, d_mixed):
    """What `attend` mixes, and the gradients of the query and of every key and value, in float32."""

    def mixed(query, parts):
        return attend(query, *(Keys(*part, seen) for part, seen in zip(parts, (case.own_seen, case.prefix_seen), strict=False)))

    def both(query, parts, d_mixed):
        out, pull = jax.vjp(mixed, query, parts)
        return out, *pull(d_mixed)

    return jax.tree.map(lambda x: np.asarray(x, np.float32), jax.jit(both)(query, parts, d_mixed))


def by_loops(case, query, parts, d_mixed):
    """The same in float64."""
    query, parts, d_mixed = jax.tree.map(lambda x: np.asarray(x, np.float64), (query, parts, d_mixed))
    mixed, d_query, d_parts = np.zeros_like(query), np.zeros_like(query), jax.tree.map(np.zeros_like, parts)
    for p, g, x, h in np.ndindex(query.shape[:-1]):
        where = [(p, h // (H // J), g), (p, h // (H // J))]
        seen = [(n, where[n], y) for n in range(len(parts)) for y in range(seen_by(case)[n][p, x])]
        score = np.array([parts[n][0][at][y] @ query[p, g, x, h] for n, at, y in seen]) / np.sqrt(C)
        weight = np.exp(score - score.max())
        weight /= weight.sum()
        out = sum(w * parts[n][1][at][y] for w, (n, at, y) in zip(weight, seen, strict=True))
        mixed[p, g, x, h], d_out = out, d_mixed[p, g, x, h]
        for w, (n, at, y) in zip(weight, seen, strict=True):
            d_score = w * (d_out @ parts[n][1][at][y] - d_out @ out) / np.sqrt(C)
            d_query[p, g, x, h] += d_score * parts[n][0][at][y]
            d_parts[n][0][at][y] += d_score * query[p, g, x, h]
            d_parts[n][1][at][y] += w * d_out
    return mixed, d_query, d_parts


def assert_close(got, want, tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), got, want)


@CASE
def test_values_and_gradients_are_those_of_the_loops(case, blocks):
    """Oracle: the loops: padding, ragged prompts, heads that share keys, groups that share a prompt."""
    drawn = draw(case)
    assert_close(run(case, *drawn), by_loops(case, *drawn), 1e-5)


def test_bfloat16_loses_its_own_rounding_and_no_more(blocks):
    """Oracle: the loops on the rounded numbers, to 2^-6 of the largest: weights and results have 8 bits."""
    case = CASES["responses"]
    drawn = draw(case, jnp.bfloat16)
    want = by_loops(case, *drawn)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=np.abs(b).max() / 64), run(case, *drawn), want)


def test_what_nobody_sees_is_not_read(monkeypatch):
    """Oracle: NaN in every key and value of the blocks past the last that a query sees; a product with it would be NaN too."""
    monkeypatch.setattr(attention, "_MAX_WIDTH", 4)
    case = CASES["one token, cached"]._replace(prefix_seen=np.array([[7], [4]], np.int32))
    query, parts, d_mixed = draw(case)
    want = run(case, query, parts, d_mixed)
    for part, first in zip(parts, (8, 8), strict=True):
        for array in part:
            array[..., first:, :] = np.nan
    assert_close(run(case, query, parts, d_mixed), want, 0)


def test_scores_are_never_held_at_once():
    """Oracle: the compiler's account of temporaries, forwards and backwards, against the bytes of one matrix of scores a head."""
    length, heads, size = 1024, 8, 16
    query, key = jnp.ones((1, 1, length, heads, size)), jnp.ones((1, heads, 1, length, size))

    def loss(query, key):
        return jnp.sum(attend(query, Keys(key, key)))

    temporaries = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(query, key).compile().memory_analysis().temp_size_in_bytes
    assert temporaries < 4 * length * length * heads / 3
