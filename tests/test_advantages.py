"""Masked means, advantages and value targets against hand arithmetic, their limits, and double loops in numpy."""

import math
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mr1jax.rl import advantages
from mr1jax.rl.masked import masked_mean, masked_sum

JUNK = (math.nan, math.inf, -math.inf, 1e30)


@pytest.fixture
def ragged():
    """Random rewards and values of 3 x 2 responses of 0 to 7 tokens, as numpy arrays."""
    rng = np.random.default_rng(0)
    reward, value = rng.normal(size=(2, 3, 2, 7)).astype(np.float32)
    length = np.array([[7, 0], [1, 4], [6, 2]])
    return reward, value, np.arange(7) < length[..., None]


def loop_gae(reward, value, mask, gamma, gae_lambda):
    """GAE by its definition: a sum over all later deltas, row by row, knowing nothing of recursion or padding."""
    advantage = np.zeros(reward.shape)
    for row in np.ndindex(reward.shape[:-1]):
        length = int(mask[row].sum())
        values = [*value[row][:length].astype(float), 0.0]
        delta = [reward[row][t] + gamma * values[t + 1] - values[t] for t in range(length)]
        for t in range(length):
            advantage[row][t] = sum((gamma * gae_lambda) ** (later - t) * delta[later] for later in range(t, length))
    return advantage


def test_masked_mean_by_hand():
    """Oracle: hand arithmetic. Rows (1 + 3) / 2 = 2 and nothing at all = 0; all together (1 + 3) / 2 = 2, not 4 / 6."""
    x = jnp.array([[1.0, 3.0, 100.0], [7.0, 8.0, 9.0]])
    mask = jnp.array([[True, True, False], [False, False, False]])
    np.testing.assert_array_equal(masked_mean(x, mask, axis=-1), [2.0, 0.0])
    np.testing.assert_array_equal(masked_mean(x, mask), 2.0)
    np.testing.assert_array_equal(masked_sum(x, mask, axis=0), [1.0, 3.0, 0.0])


@pytest.mark.parametrize("junk", JUNK)
def test_masked_mean_ignores_junk(junk):
    """Oracle: the mean without the junk, and its gradient by hand: 1/2 at each of two counted positions, exactly 0 at the masked one."""
    x, mask = jnp.array([1.0, junk, 3.0]), jnp.array([True, False, True])
    with jax.debug_nans(True):
        value, gradient = jax.value_and_grad(masked_mean)(x, mask)
    assert value == 2.0
    np.testing.assert_array_equal(gradient, [0.5, 0.0, 0.5])


def test_group_advantage_by_hand():
    """Oracle: hand arithmetic.

    Rewards 1, 0: mean 1/2, sample deviation sqrt((1/4 + 1/4) / 1) = 0.7071, so (1 - 1/2) / 0.7071 = 0.7071 and its negative.
    Rewards 3, 7: mean 5, sample deviation sqrt((4 + 4) / 1) = 2.8284, so -2 / 2.8284 = -0.7071: scale and shift do not matter.
    """
    advantage = advantages.group_advantage(jnp.array([[1.0, 0.0], [3.0, 7.0]]))
    np.testing.assert_allclose(advantage, [[0.70710678, -0.70710678], [-0.70710678, 0.70710678]], rtol=1e-5)


def test_group_advantage_eps_by_hand():
    """Oracle: hand arithmetic. Rewards 1, 0 with eps 0.2928932: 1/2 / (0.7071068 + 0.2928932) = 1/2."""
    np.testing.assert_allclose(advantages.group_advantage(jnp.array([[1.0, 0.0]]), eps=0.2928932), [[0.5, -0.5]], rtol=1e-5)


def test_advantages_without_a_deviation_by_hand():
    """Oracle: hand arithmetic. Rewards 1, 0, 0, 0: mean 1/4, so 3/4 and -1/4."""
    reward = jnp.array([[1.0, 0.0, 0.0, 0.0]])
    np.testing.assert_allclose(advantages.centred_advantage(reward), [[0.75, -0.25, -0.25, -0.25]], rtol=1e-5)


def test_advantages_without_a_deviation_of_random_rewards():
    """Oracle: loops over groups with Python's `statistics`."""
    reward = np.random.default_rng(2).normal(size=(5, 8)).astype(np.float32)
    centred = [[r - statistics.mean(group) for r in group] for group in reward.tolist()]
    np.testing.assert_allclose(advantages.centred_advantage(jnp.asarray(reward)), centred, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("of_group", [advantages.group_advantage, advantages.centred_advantage])
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 1 / 3, 1e-20, 1e20])
@pytest.mark.parametrize("group_size", [2, 7, 8])
def test_equal_rewards_give_exactly_zero(of_group, reward, group_size):
    """Oracle: the definition. Nobody is better than a group of equals, whatever the mean of seven times 0.1 rounds to."""
    with jax.debug_nans(True):
        advantage = of_group(jnp.full((3, group_size), reward))
    np.testing.assert_array_equal(advantage, np.zeros((3, group_size)))


def test_group_advantage_of_random_rewards():
    """Oracle: a loop over groups with Python's `statistics`."""
    reward = np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32)
    expected = [[(r - statistics.mean(group)) / statistics.stdev(group) for r in group] for group in reward.tolist()]
    np.testing.assert_allclose(advantages.group_advantage(jnp.asarray(reward)), expected, rtol=1e-4, atol=1e-5)


def test_dead_group_share_by_hand():
    """Oracle: counting. Groups 1 and 4 of four are dead."""
    reward = jnp.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    assert advantages.dead_group_share(reward) == 0.5


def test_group_spread_by_hand():
    """Oracle: rewards 0 and 1 are half from their mean, and equal ones, or a group of one, not at all."""
    assert advantages.group_spread(jnp.array([[1.0, 1.0], [1.0, 0.0]])) == 0.25
    assert advantages.group_spread(jnp.array([[3.0]])) == 0


def test_token_reward_sits_on_the_last_token():
    """Oracle: by hand. Length 1 pays on token 0, length R on token R - 1, and length 0 pays nothing."""
    paid = advantages.token_reward(jnp.array([[2.0, 3.0, 5.0]]), jnp.array([[1, 4, 0]]), 4)
    np.testing.assert_array_equal(paid, [[[2, 0, 0, 0], [0, 0, 0, 3], [0, 0, 0, 0]]])


def test_gae_by_hand():
    """Oracle: hand arithmetic with gamma = 1/2, lambda = 1/2, values 1, 2, 3, reward 4 on the third and last token.

        delta_3 = 4 + 1/2 * 0 - 3 = 1       A_3 = 1                        target_3 = 4
        delta_2 = 0 + 1/2 * 3 - 2 = -1/2    A_2 = -1/2 + 1/4 * 1 = -1/4    target_2 = 7/4
        delta_1 = 0 + 1/2 * 2 - 1 = 0       A_1 = 0 + 1/4 * -1/4 = -1/16   target_1 = 15/16

    The fourth place is padding: 0 whatever stands there.
    """
    reward, value = jnp.array([0.0, 0.0, 4.0, jnp.nan]), jnp.array([1.0, 2.0, 3.0, jnp.inf])
    mask = jnp.array([True, True, True, False])
    with jax.debug_nans(True):
        advantage, target = advantages.gae(reward, value, mask, gamma=0.5, gae_lambda=0.5)
    np.testing.assert_array_equal(advantage, [-1 / 16, -1 / 4, 1.0, 0.0])
    np.testing.assert_array_equal(target, [15 / 16, 7 / 4, 4.0, 0.0])


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1.0, 1.0), (0.9, 0.8), (0.5, 0.0), (0.0, 1.0)])
def test_gae_of_ragged_rows(ragged, gamma, gae_lambda):
    """Oracle: the defining sum of arXiv:1506.02438, equation 16, in a double loop."""
    reward, value, mask = ragged
    advantage, target = advantages.gae(*map(jnp.asarray, ragged), gamma=gamma, gae_lambda=gae_lambda)
    expected = loop_gae(reward, value, mask, gamma, gae_lambda)
    np.testing.assert_allclose(advantage, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(target, expected + np.where(mask, value, 0), rtol=1e-4, atol=1e-5)


def test_gae_limits(ragged):
    """Oracle: the two ends of lambda. At 1 the target is the discounted return (Monte Carlo), at 0 it is r_t + gamma V_{t+1} (TD)."""
    reward, value, mask = ragged
    returns, one_step = np.zeros((2, *reward.shape))
    for row in np.ndindex(reward.shape[:-1]):
        length = int(mask[row].sum())
        for t in range(length):
            returns[row][t] = sum(0.9 ** (later - t) * reward[row][later] for later in range(t, length))
            one_step[row][t] = reward[row][t] + (0.9 * value[row][t + 1] if t + 1 < length else 0.0)
    for gae_lambda, expected in ((1.0, returns), (0.0, one_step)):
        _, target = advantages.gae(*map(jnp.asarray, ragged), gamma=0.9, gae_lambda=gae_lambda)
        np.testing.assert_allclose(target, expected, rtol=1e-4, atol=1e-5)


def test_whiten_by_hand():
    """Oracle: hand arithmetic. Of 1, 3 the mean is 2 and the deviation 1, so -1 and 1; equal advantages and padding give 0."""
    different, equal, mask = jnp.array([[1.0, 3.0, jnp.nan]]), jnp.array([[5.0, 5.0, jnp.inf]]), jnp.array([[True, True, False]])
    with jax.debug_nans(True):
        np.testing.assert_allclose(advantages.whiten(different, mask), [[-1.0, 1.0, 0.0]], rtol=1e-5)
        np.testing.assert_array_equal(advantages.whiten(equal, mask), [[0.0, 0.0, 0.0]])


def test_whiten_has_the_moments(ragged):
    """Oracle: numpy's mean and standard deviation of the unmasked part: 0 and 1."""
    advantage, _, mask = ragged
    whitened = np.asarray(advantages.whiten(jnp.asarray(advantage), jnp.asarray(mask)))[mask]
    np.testing.assert_allclose([whitened.mean(), whitened.std()], [0.0, 1.0], atol=1e-5)
