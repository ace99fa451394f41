"""The equations of a policy's loss over the tokens of responses; nothing about prompts, memories or models.

A ratio compares the policy that trains with the one that sampled: token by token, or one ratio for a whole response, which all its
tokens then share. A `*_loss` function and `kl_k3` give one number a token, 0 where masked; a `*_mean` makes a scalar of them. Which of
them make up which algorithm is said in `algorithms`. All log-probabilities are natural logarithms under the distribution that was
sampled from. The batch is constant: gradients flow through the log-probability, entropy and value of the model that trains.
"""

import jax.numpy as jnp
from flax import struct

from mr1jax.rl.masked import masked_mean, masked_sum, zero_masked
from mr1jax.structs import Array


@struct.dataclass
class LossBatch:
    """What the loss holds constant.

    old_log_prob: float32[P, G, R]   of the policy that sampled
    advantage:    float32[P, G, R]
    mask:         bool[P, G, R]      True on the tokens to learn from: those of a response, its end token included
    old_value:    float32[P, G, R]   of the value head that sampled; read under PPO only
    target:       float32[P, G, R]   what the value head should say; read under PPO only
    ref_log_prob: float32[P, G, R]   of the reference policy; None: no KL term, and no reference pass was made
    """

    old_log_prob: Array
    advantage: Array
    mask: Array
    old_value: Array
    target: Array
    ref_log_prob: Array | None = None


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


def budget_mean(x_PGR: Array, mask_PGR: Array) -> Array:
    """Sums over the tokens of each response, divides by the R tokens that one may have, and averages over the responses that have tokens.

        1/G sum_i 1/R sum_t x_{i,t}

    Source: Dr. GRPO, arXiv:2503.20783, section 3.2 and its listing 1, where the constant is the generation budget as well. So a token
    weighs the same in a short response as in a long one, and in any batch.
    """
    return masked_mean(masked_sum(x_PGR, mask_PGR, axis=-1) / x_PGR.shape[-1], jnp.any(mask_PGR, axis=-1))


def token_ratio(log_prob: Array, old_log_prob: Array, mask: Array) -> Array:
    """Compares the two policies token by token: rho_t = exp(log_prob_t - old_log_prob_t), arXiv:1707.06347, section 3.

    All arrays [..., R] of one shape. Returns float32[..., R], 1 where masked, where exp of junk could be infinite.
    """
    return jnp.exp(_log_ratio(log_prob, old_log_prob, mask))


def geometric_ratio(log_prob: Array, old_log_prob: Array, mask: Array) -> Array:
    """Compares the two policies by a whole response, at the scale of a token: GSPO's ratio.

        s = (pi(o) / pi_old(o))^(1/|o|) = exp(1/|o| sum_t (log_prob_t - old_log_prob_t))

    Source: arXiv:2507.18071, section 4. At s = 1, in the first update of a rollout, its gradient averaged over the tokens of a response
    is that of `token_ratio`.

    All arrays [..., R] of one shape. Returns float32[..., R], the same on all tokens of a response, and 1 where masked.
    """
    mean = masked_mean(_log_ratio(log_prob, old_log_prob, mask), mask, axis=-1)
    return jnp.exp(zero_masked(jnp.broadcast_to(mean[..., None], mask.shape), mask))


def clipped_surrogate_loss(ratio: Array, advantage: Array, mask: Array, *, clip_eps: float, clip_eps_high: float) -> Array:
    """Rewards a higher probability of what has a positive advantage, up to a factor 1 + clip_eps_high; a lower one down to 1 - clip_eps.

        L_t = -min(rho_t A_t, clip(rho_t, 1 - eps, 1 + eps_high) A_t)

    Source: arXiv:1707.06347, equation 7 (negated), where both eps are one; DAPO, arXiv:2503.14476, section 3.1, where the upper one is
    larger, so that an unlikely token may gain more ("clip-higher"). At rho = 1 no clip acts, and the gradient is that of -A_t log rho_t.

    All arrays [..., R] of one shape. Returns float32[..., R], 0 where masked.
    """
    advantage = zero_masked(advantage, mask)
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip_eps, 1 + clip_eps_high) * advantage)


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


def clip_fraction(ratio: Array, advantage: Array, mask: Array, *, clip_eps: float, clip_eps_high: float) -> Array:
    """Measures the share of tokens whose policy gradient the clip removed. All arrays [..., R] of one shape. Returns float32[]."""
    too_high = (ratio > 1 + clip_eps_high) & (advantage > 0)
    too_low = (ratio < 1 - clip_eps) & (advantage < 0)
    return masked_mean(too_high | too_low, mask)


def ratio_gap(log_prob: Array, old_log_prob: Array, mask: Array) -> Array:
    """Measures max |rho_t - 1|: zero but for rounding before the first update, if sampler and trainer agree. Returns float32[]."""
    return jnp.max(jnp.abs(token_ratio(log_prob, old_log_prob, mask) - 1))


def _log_ratio(log_prob: Array, old_log_prob: Array, mask: Array) -> Array:
    return zero_masked(log_prob, mask) - zero_masked(old_log_prob, mask)
