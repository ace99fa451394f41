"""The loss of every algorithm against hand arithmetic, gradients in closed form, junk under the mask, and double loops in numpy."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mr1jax.config import LossConfig
from mr1jax.rl import algorithms, losses
from mr1jax.rl.losses import LossBatch, token_ratio

GRPO = LossConfig(algorithm="grpo", kl_coef=0.1, entropy_coef=0.01)
PPO = LossConfig(algorithm="ppo", kl_coef=0.1, entropy_coef=0.01)
EVERY = [LossConfig(algorithm=name, kl_coef=0.1, entropy_coef=0.01) for name in algorithms.ALGORITHMS]
BY_TOKEN = ("ppo", "dapo")  # whose mean counts tokens; that of the others counts responses
SHAPE = (2, 2, 4)  # P, G, R
policy_loss = jax.jit(algorithms.policy_loss, static_argnames="config")
policy_gradient = jax.jit(jax.grad(algorithms.policy_loss, argnums=(0, 1, 2), has_aux=True), static_argnames="config")


@pytest.fixture(scope="module")
def scores():
    """Log-probabilities, entropies and values of the model that trains, far enough from the old ones that clips bite."""
    rng = np.random.default_rng(0)
    return [jnp.asarray(x, jnp.float32) for x in (-rng.exponential(size=SHAPE), rng.uniform(size=SHAPE), rng.normal(size=SHAPE))]


@pytest.fixture(scope="module")
def batch():
    """Four responses of 1 to 4 tokens."""
    rng = np.random.default_rng(1)
    old_log_prob, ref_log_prob = (jnp.asarray(-rng.exponential(size=SHAPE), jnp.float32) for _ in range(2))
    advantage, old_value, target = (jnp.asarray(rng.normal(size=SHAPE), jnp.float32) for _ in range(3))
    mask = jnp.asarray(np.arange(4) < np.array([[4, 1], [2, 3]])[..., None])
    return LossBatch(old_log_prob, advantage, mask, old_value, target, ref_log_prob)


def loop_loss(scores, batch, config):
    """The loss of one batch in Python floats, token by token, from the equations of the papers."""
    (log_prob, entropy, value), batch = jax.tree.map(np.asarray, (scores, batch))
    tokens = {}
    for p, g, t in zip(*np.nonzero(batch.mask), strict=True):
        at = (p, g, t)
        ratio = math.exp(log_prob[at] - float(batch.old_log_prob[at]))
        advantage = float(batch.advantage[at])
        objective = min(ratio * advantage, min(max(ratio, 1 - config.clip_eps), 1 + config.clip_eps) * advantage)
        reference_ratio = math.exp(float(batch.ref_log_prob[at]) - log_prob[at])
        loss = -objective + config.kl_coef * (reference_ratio - math.log(reference_ratio) - 1) - config.entropy_coef * entropy[at]
        if config.algorithm == "ppo":
            old, target = float(batch.old_value[at]), float(batch.target[at])
            clipped = old + min(max(value[at] - old, -config.value_clip_eps), config.value_clip_eps)
            loss += config.value_coef * 0.5 * max((value[at] - target) ** 2, (clipped - target) ** 2)
        tokens.setdefault((p, g), []).append(loss)
    if config.algorithm == "ppo":
        return np.mean(sum(tokens.values(), []))
    return np.mean([np.mean(response) for response in tokens.values()])


@pytest.mark.parametrize("config", [GRPO, PPO], ids=["grpo", "ppo"])
def test_policy_loss_is_that_of_the_papers(scores, batch, config):
    """Oracle: a loop over tokens in Python floats."""
    loss, metrics = policy_loss(*scores, batch, config)
    np.testing.assert_allclose(loss, loop_loss(scores, batch, config), rtol=1e-4)
    assert metrics["loss"] == loss
    assert metrics["clip_fraction"] > 0  # or the clip was not tested


@pytest.mark.parametrize("config", [GRPO, PPO], ids=["grpo", "ppo"])
def test_policy_gradient_is_that_of_the_papers(scores, batch, config):
    """Oracle: central differences of the Python loop, at every score; they are exactly 0 where masked."""
    gradients, _ = policy_gradient(*scores, batch, config)
    scores = [np.asarray(x, float) for x in scores]
    for which, gradient in enumerate(gradients):
        expected = np.zeros(SHAPE)
        for at in np.ndindex(SHAPE):
            sides = [[x.copy() for x in scores] for _ in range(2)]
            sides[0][which][at] += 1e-6
            sides[1][which][at] -= 1e-6
            expected[at] = (loop_loss(sides[0], batch, config) - loop_loss(sides[1], batch, config)) / 2e-6
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(np.asarray(gradient)[~np.asarray(batch.mask)], 0.0)


@pytest.mark.parametrize("config", EVERY, ids=lambda config: config.algorithm)
def test_parts_make_up_the_whole(scores, batch, config):
    """Oracle: loss, gradients and metrics of the whole batch. One part has 6 tokens, the other 4, and a response of the second has none."""
    batch = batch.replace(mask=batch.mask.at[1, 0].set(False))
    whole, metrics = policy_gradient(*scores, batch, config)
    in_parts = jax.tree.map(lambda x: x[:, None], (*scores, batch))  # M parts of one prompt
    weight_M = algorithms.part_weights(in_parts[3].mask, config)
    expected = [5 / 8, 3 / 8] if config.algorithm in BY_TOKEN else [2 / 3, 1 / 3]
    np.testing.assert_allclose(weight_M, expected, rtol=1e-6)
    parts = [policy_gradient(*jax.tree.map(lambda x, m=m: x[m], in_parts), config) for m in range(2)]
    gradient = [
        np.concatenate([weight * part for weight, part in zip(weight_M, of_M, strict=True)])
        for of_M in zip(*(g for g, _ in parts), strict=True)
    ]
    jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7), gradient, list(whole))
    joined = algorithms.join_metrics(jax.tree.map(lambda *m: jnp.stack(m), *(m for _, m in parts)), in_parts[3].mask, config)
    assert joined.keys() == metrics.keys()
    jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7), joined, metrics)
    assert metrics["clip_fraction"] > 0


@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize("config", EVERY, ids=lambda config: config.algorithm)
def test_junk_under_the_mask_changes_nothing(scores, batch, config, junk):
    """Oracle: the same batch with zeros there. Value, metrics and gradients agree bit for bit, and no NaN arises on the way."""

    def fill(x, filler):
        return x if x.dtype == bool else jnp.asarray(np.where(batch.mask, x, np.float32(filler)))

    clean, dirty = (jax.tree.map(lambda x, filler=filler: fill(x, filler), (*scores, batch)) for filler in (0.0, junk))
    with jax.debug_nans(True):
        results = [(policy_loss(*inputs, config), policy_gradient(*inputs, config)) for inputs in (clean, dirty)]
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_empty_mask_costs_nothing(scores, batch):
    """Oracle: the definition of a mean over nothing here, 0, with gradient 0."""
    empty = batch.replace(mask=jnp.zeros(SHAPE, bool))
    with jax.debug_nans(True):
        loss, _ = policy_loss(*scores, empty, PPO)
        gradients, _ = policy_gradient(*scores, empty, PPO)
    assert loss == 0
    jax.tree.map(lambda g: np.testing.assert_array_equal(g, 0.0), gradients)


def test_clip_on_each_side_of_the_ratio():
    """Oracle: hand arithmetic beside each case, eps = 0.2 below and 0.3 above; where not clipped, d(rho A) / d log_prob = rho A."""
    ratio, advantage, loss, gradient = np.array(
        [
            (1.5, 2.0, -2.6, 0.0),  # min(1.5 * 2, 1.3 * 2) = 2.6: clipped
            (0.5, 2.0, -1.0, -1.0),  # min(0.5 * 2, 0.8 * 2) = 1: not clipped
            (1.5, -2.0, 3.0, 3.0),  # min(1.5 * -2, 1.3 * -2) = -3: not clipped
            (0.5, -2.0, 1.6, 0.0),  # min(0.5 * -2, 0.8 * -2) = -1.6: clipped
            (1.25, 2.0, -2.5, -2.5),  # inside, where a clip of 0.2 on both sides would act
            (0.9, -2.0, 1.8, 1.8),  # inside
        ],
        np.float32,
    ).T
    advantage, mask, clip = jnp.asarray(advantage), jnp.ones(6, bool), {"clip_eps": 0.2, "clip_eps_high": 0.3}

    @jax.jit
    def evaluate(log_prob):
        def loss(log_prob):
            return losses.clipped_surrogate_loss(token_ratio(log_prob, jnp.zeros(6), mask), advantage, mask, **clip)

        per_token, pullback = jax.vjp(loss, log_prob)
        return per_token, *pullback(jnp.ones(6)), losses.clip_fraction(jnp.exp(log_prob), advantage, mask, **clip)

    got_loss, got_gradient, fraction = evaluate(jnp.asarray(np.log(ratio)))
    np.testing.assert_allclose(got_loss, loss, rtol=1e-5)
    np.testing.assert_allclose(got_gradient, gradient, rtol=1e-5)
    np.testing.assert_allclose(fraction, 2 / 6, rtol=1e-5)


def test_on_policy_gradient_is_reinforce(scores, batch):
    """Oracle: REINFORCE. At ratio 1 the gradient of each token's loss is -A, so that of the mean over N tokens is -A / N."""
    on_policy = batch.replace(old_log_prob=scores[0], ref_log_prob=None)
    config = dataclasses.replace(PPO, entropy_coef=0.0)
    (gradient, _, _), metrics = policy_gradient(*scores, on_policy, config)
    np.testing.assert_allclose(gradient, -np.where(batch.mask, batch.advantage, 0) / np.sum(batch.mask), rtol=1e-5, atol=1e-7)
    assert metrics["ratio_gap"] == 0.0
    assert metrics["clip_fraction"] == 0.0


@pytest.mark.parametrize(
    ("value", "old_value", "target", "loss"),
    [
        (1.1, 1.0, 3.0, 1.805),  # moved by less than 0.2: 1/2 (1.1 - 3)^2 = 1.805
        (2.0, 1.0, 3.0, 1.62),  # moved towards the target beyond 1.2: 1/2 (1.2 - 3)^2 = 1.62 is more than 1/2 (2 - 3)^2 = 0.5
        (0.0, 1.0, 3.0, 4.5),  # moved away beyond 0.8: 1/2 (0 - 3)^2 = 4.5 is more than 1/2 (0.8 - 3)^2 = 2.42
    ],
)
def test_clipped_value_loss_by_hand(value, old_value, target, loss):
    """Oracle: hand arithmetic beside each case, value_clip_eps = 0.2."""
    inputs = (jnp.array([x]) for x in (value, old_value, target, True))
    np.testing.assert_allclose(losses.clipped_value_loss(*inputs, value_clip_eps=0.2), [loss], rtol=1e-5)


def test_kl_k3_by_hand():
    """Oracle: hand arithmetic. Policy 1/4, reference 1/2: 2 - ln 2 - 1 = 0.306853. Equal: 0. Masked: 0."""
    log_prob, ref_log_prob = jnp.log(jnp.array([0.25, 0.3, 0.1])), jnp.log(jnp.array([0.5, 0.3, 0.9]))
    np.testing.assert_allclose(losses.kl_k3(log_prob, ref_log_prob, jnp.array([True, True, False])), [1 - math.log(2), 0.0, 0.0], rtol=1e-5)


def test_kl_k3_is_unbiased_and_never_negative():
    """Oracle: the KL divergence in closed form, which k3 must average to over all tokens, weighed by the policy's probability."""
    logits = np.random.default_rng(2).normal(size=(2, 50))
    policy, reference = (jnp.asarray(x - np.log(np.exp(x).sum()), jnp.float32) for x in logits)
    estimate = np.asarray(losses.kl_k3(policy, reference, jnp.ones(50, bool)))
    policy, reference = np.asarray(policy, float), np.asarray(reference, float)
    np.testing.assert_allclose(np.sum(np.exp(policy) * estimate), np.sum(np.exp(policy) * (policy - reference)), rtol=1e-5)
    near_zero = jnp.asarray(np.linspace(-1e-3, 1e-3, 2001), jnp.float32)
    assert np.all(estimate >= 0)
    assert np.all(np.asarray(losses.kl_k3(near_zero, jnp.zeros(2001), jnp.ones(2001, bool))) >= 0)


def test_no_reference_means_no_kl(scores, batch):
    """Oracle: the loss with kl_coef 0. Without a reference there is no KL in the metrics either."""
    without, metrics = policy_loss(*scores, batch.replace(ref_log_prob=None), GRPO)
    assert without == policy_loss(*scores, batch, dataclasses.replace(GRPO, kl_coef=0.0))[0]
    assert "kl" not in metrics


def test_grpo_reads_no_values(scores, batch):
    """Oracle: the same loss with NaN for every value."""
    nan = jnp.full(SHAPE, jnp.nan)
    loss, metrics = policy_loss(*scores[:2], nan, batch.replace(old_value=nan, target=nan), GRPO)
    assert loss == policy_loss(*scores, batch, GRPO)[0]
    assert "value_loss" not in metrics


def test_means_weigh_tokens_or_responses():
    """Oracle: hand arithmetic. Responses 6 and 0, 0, 3 of 1 and 3 tokens: (6 + 1) / 2 = 3.5 by response, 9 / 4 = 2.25 by token.

    Of a budget of 3 tokens each, (6 / 3 + 3 / 3) / 2 = 1.5. The third response has no token: it is not counted, rather than counted as 0.
    """
    x_PGR = jnp.array([[[6.0, 9.0, 9.0], [0.0, 0.0, 3.0], [9.0, 9.0, 9.0]]])
    mask_PGR = jnp.array([[[True, False, False], [True, True, True], [False, False, False]]])
    assert losses.response_mean(x_PGR, mask_PGR) == 3.5
    assert losses.token_mean(x_PGR, mask_PGR) == 2.25
    assert losses.budget_mean(x_PGR, mask_PGR) == 1.5


def test_ratios_by_hand():
    """Oracle: hand arithmetic. Tokens 2 and 8 times as likely: 2 and 8 one by one, sqrt(2 * 8) = 4 their geometric mean.

    The second response has one token, a third as likely, for which both agree; the third has none. Masked is 1.
    """
    log_prob = jnp.log(jnp.array([[2.0, 8.0, 9.0], [1 / 3, 9.0, 9.0], [9.0, 9.0, 9.0]])).at[:, 2].set(jnp.inf)
    mask = jnp.array([[True, True, False], [True, False, False], [False, False, False]])
    alone = [[1 / 3, 1, 1], [1, 1, 1]]
    for ratio, first in ((token_ratio, [2, 8, 1]), (losses.geometric_ratio, [4, 4, 1])):
        np.testing.assert_allclose(ratio(log_prob, jnp.zeros((3, 3)), mask), [first, *alone], rtol=1e-5)


def test_ratio_gap_by_hand():
    """Oracle: hand arithmetic. Ratios 1/2 and 5/4: the gap is 1/2; a masked ratio of e^9 does not count."""
    log_prob = jnp.array([math.log(0.5), math.log(1.25), 9.0])
    np.testing.assert_allclose(losses.ratio_gap(log_prob, jnp.zeros(3), jnp.array([True, True, False])), 0.5, rtol=1e-5)
