"""The losses of PPO and GRPO over the tokens of responses; nothing about prompts, memories or models.

A `*_loss` function and `kl_k3` give one number a token, 0 where masked; `response_mean` (GRPO) or `token_mean` (PPO) makes a scalar of
them. All log-probabilities are natural logarithms under the distribution that was sampled from. The batch is constant: gradients flow
through `log_prob`, `entropy` and `value`, the outputs of the model that trains.
"""

import jax.numpy as jnp
from flax import struct

from mr1jax.config import LossConfig
from mr1jax.rl.masked import masked_mean, zero_masked
from mr1jax.structs import Array


@struct.dataclass
class LossBatch:
    """What the loss holds constant.

    old_log_prob: float32[P, G, R]   of the policy that sampled
    advantage:    float32[P, G, R]
    mask:         bool[P, G, R]      True on the tokens of a response, its end token included
    old_value:    float32[P, G, R]   of the value head that sampled; unread under GRPO
    target:       float32[P, G, R]   what the value head should say; unread under GRPO
    ref_log_prob: float32[P, G, R]   of the reference policy; None: no KL term, and no reference pass was made
    """

    old_log_prob: Array
    advantage: Array
    mask: Array
    old_value: Array
    target: Array
    ref_log_prob: Array | None = None


def policy_loss(
    log_prob_PGR: Array, entropy_PGR: Array, value_PGR: Array, batch: LossBatch, config: LossConfig
) -> tuple[Array, dict[str, Array]]:
    """Computes the loss of GRPO or PPO, by `config.algorithm`, and its metrics.

        loss = surrogate + kl_coef * KL - entropy_coef * H + value_coef * value_loss      (the last under PPO only)

    Source: arXiv:2402.03300, equation 3 (negated); arXiv:1707.06347, equation 9 (negated).

    log_prob_PGR, entropy_PGR: float32[P, G, R] of the model that trains, entropy of the distribution that the token was drawn from;
    value_PGR: float32[P, G, R], unread under GRPO. Returns (float32[], dict of float32[]).
    """
    mean = token_mean if config.algorithm == "ppo" else response_mean
    mask = batch.mask
    surrogate = clipped_surrogate_loss(log_prob_PGR, batch.old_log_prob, batch.advantage, mask, clip_eps=config.clip_eps)
    metrics = {
        "surrogate": mean(surrogate, mask),
        "entropy": mean(entropy_PGR, mask),
        "clip_fraction": clip_fraction(log_prob_PGR, batch.old_log_prob, batch.advantage, mask, clip_eps=config.clip_eps),
        "ratio_gap": ratio_gap(log_prob_PGR, batch.old_log_prob, mask),
    }
    loss = metrics["surrogate"]
    if config.entropy_coef > 0:  # not a product with 0, which would still run the backward pass of the entropy
        loss -= config.entropy_coef * metrics["entropy"]
    if batch.ref_log_prob is not None:
        metrics["kl"] = mean(kl_k3(log_prob_PGR, batch.ref_log_prob, mask), mask)
        loss += config.kl_coef * metrics["kl"]
    if config.algorithm == "ppo":
        value_loss = clipped_value_loss(value_PGR, batch.old_value, batch.target, mask, value_clip_eps=config.value_clip_eps)
        metrics["value_loss"] = mean(value_loss, mask)
        loss += config.value_coef * metrics["value_loss"]
    return loss, metrics | {"loss": loss}


def part_weights(mask_MPGR: Array, config: LossConfig) -> Array:
    """Weighs M parts of a batch so that the loss of the batch is the weighted sum of theirs.

        w_m = n_m / sum_k n_k,   n_m the number of tokens (PPO) or of responses that have tokens (GRPO) in part m

    mask_MPGR: bool[M, P, G, R]. Returns float32[M].
    """
    return _share(mask_MPGR if config.algorithm == "ppo" else jnp.any(mask_MPGR, axis=-1))


def join_metrics(metrics: dict[str, Array], mask_MPGR: Array, config: LossConfig) -> dict[str, Array]:
    """Makes the metrics that `policy_loss` would give of a whole batch from those of its M parts, a leading axis of each."""
    weight_M = part_weights(mask_MPGR, config)
    joined = {name: jnp.tensordot(weight_M, value, axes=1) for name, value in metrics.items()}
    return joined | {
        "clip_fraction": jnp.dot(_share(mask_MPGR), metrics["clip_fraction"]),
        "ratio_gap": jnp.max(metrics["ratio_gap"]),
    }


def _share(counted: Array) -> Array:
    """Gives the share that each row along the leading axis has in what is counted, bool[M, ...]; 0 where nothing is."""
    count_M = jnp.sum(counted, axis=tuple(range(1, counted.ndim)), dtype=jnp.float32)
    return count_M / jnp.maximum(jnp.sum(count_M), 1.0)


def response_mean(x_PGR: Array, mask_PGR: Array) -> Array:
    """Averages over the tokens of each response, then over the responses that have tokens.

        1/G sum_i 1/|o_i| sum_t x_{i,t}

    Source: arXiv:2402.03300, equation 3. A token of a long response thus weighs less than one of a short response: a long wrong answer
    is punished less a token, to which Dr. GRPO (arXiv:2503.20783, section 3.1) objects.
    """
    return masked_mean(masked_mean(x_PGR, mask_PGR, axis=-1), jnp.any(mask_PGR, axis=-1))


def token_mean(x_PGR: Array, mask_PGR: Array) -> Array:
    """Averages over all tokens of the batch alike, the empirical mean over time steps of PPO (arXiv:1707.06347, equation 7)."""
    return masked_mean(x_PGR, mask_PGR)


def clipped_surrogate_loss(log_prob: Array, old_log_prob: Array, advantage: Array, mask: Array, *, clip_eps: float) -> Array:
    """Rewards a higher probability of tokens with positive advantage, but no further than a factor 1 + clip_eps (1 - clip_eps downwards).

        L_t = -min(rho_t A_t, clip(rho_t, 1 - eps, 1 + eps) A_t),   rho_t = exp(log_prob_t - old_log_prob_t)

    Source: arXiv:1707.06347, equation 7 (negated). Its gradient at rho = 1 is that of -A_t log_prob_t.

    All arrays [..., R] of one shape. Returns float32[..., R], 0 where masked.
    """
    ratio = _ratio(log_prob, old_log_prob, mask)
    advantage = zero_masked(advantage, mask)
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip_eps, 1 + clip_eps) * advantage)


def clipped_value_loss(value: Array, old_value: Array, target: Array, mask: Array, *, value_clip_eps: float) -> Array:
    """Draws the value to its target, with no gain from moving further than value_clip_eps from the value at sampling.

        L_t = 1/2 max((V_t - T_t)^2, (clip(V_t, V_old_t - eps, V_old_t + eps) - T_t)^2)

    Source: openai/baselines, ppo2/model.py (in no equation of the PPO paper).

    All arrays [..., R] of one shape. Returns float32[..., R], 0 where masked.
    """
    value, old_value, target = (zero_masked(x, mask) for x in (value, old_value, target))
    clipped = jnp.clip(value, old_value - value_clip_eps, old_value + value_clip_eps)
    return 0.5 * jnp.maximum(jnp.square(value - target), jnp.square(clipped - target))


def kl_k3(log_prob: Array, ref_log_prob: Array, mask: Array) -> Array:
    """Estimates KL(policy || reference) from tokens that the policy drew: unbiased, and never negative.

        k3_t = exp(d_t) - d_t - 1,   d_t = ref_log_prob_t - log_prob_t

    Source: J. Schulman, "Approximating KL divergence" (2020), joschu.net/blog/kl-approx.html; arXiv:2402.03300, equation 4.

    All arrays [..., R] of one shape. Returns float32[..., R], 0 where masked.
    """
    difference = zero_masked(ref_log_prob, mask) - zero_masked(log_prob, mask)
    return jnp.expm1(difference) - difference


def clip_fraction(log_prob: Array, old_log_prob: Array, advantage: Array, mask: Array, *, clip_eps: float) -> Array:
    """Measures the share of tokens whose policy gradient the clip removed. All arrays [..., R] of one shape. Returns float32[]."""
    ratio = _ratio(log_prob, old_log_prob, mask)
    too_high = (ratio > 1 + clip_eps) & (advantage > 0)
    too_low = (ratio < 1 - clip_eps) & (advantage < 0)
    return masked_mean(too_high | too_low, mask)


def ratio_gap(log_prob: Array, old_log_prob: Array, mask: Array) -> Array:
    """Measures max |rho_t - 1|: zero but for rounding before the first update, if sampler and trainer agree. Returns float32[]."""
    return jnp.max(jnp.abs(_ratio(log_prob, old_log_prob, mask) - 1))


def _ratio(log_prob: Array, old_log_prob: Array, mask: Array) -> Array:
    """Gives exp(log_prob - old_log_prob), and 1 where masked, where exp of junk could be infinite."""
    return jnp.exp(zero_masked(log_prob, mask) - zero_masked(old_log_prob, mask))
