"""The Answer Agent is asked every different prompt once: which are alike, and what is computed for those that are not."""

import jax
import numpy as np
import pytest

from mr1jax.agents import rollout

P, Q, G, L = 3, 2, 5, 4
RNG = np.random.default_rng(0)


def test_the_first_alike_is_the_first_equal_prompt():
    """Oracle: lists of tokens compared in Python; what lies in the padding is junk."""
    tokens, length = RNG.integers(1, 3, (P, Q, G, L), np.int32), RNG.integers(1, 3, (P, Q, G), np.int32)
    got = np.asarray(rollout._first_alike(tokens, length))
    for p, q in np.ndindex(P, Q):
        prompts = [tokens[p, q, g, : length[p, q, g]].tolist() for g in range(G)]
        assert got[p, q].tolist() == [prompts.index(prompt) for prompt in prompts]
    assert (got != np.arange(G)).mean() > 0.2


@pytest.mark.parametrize("num_needed", [0, 1, P * Q, P * Q + 1, P * Q * G])
def test_only_what_is_needed_is_computed(num_needed):
    """Oracle: the function applied to each row by numpy, and how often the program called back."""
    needed = RNG.permutation(np.arange(P * Q * G) < num_needed).reshape(P, Q, G)
    x, y = RNG.normal(size=(P, Q, G, L)).astype(np.float32), RNG.integers(0, 9, (P, Q, G), np.int32)
    calls = []

    def function(rows):
        jax.debug.callback(lambda: calls.append(1))
        return rows[0][:, 1] + rows[1]

    got = jax.jit(lambda *rows: rollout._map_where(needed, function, rows))(x, y)
    np.testing.assert_array_equal(got, np.where(needed, x[..., 1] + y.astype(np.float32), np.float32(0)))
    jax.effects_barrier()
    assert len(calls) == -(-num_needed // (P * Q))
