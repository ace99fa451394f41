"""How much better than expected a response, or a token of it, was. Everything here is a constant of the loss: no gradient flows through it.

A reward is paid once, for a whole response. GRPO and its kin compare it with the other responses to the same prompt (`group_advantage`,
`centred_advantage`); PPO puts it on the last token (`token_reward`) and lets a value function spread it over
the tokens before (`gae`), then scales (`whiten`).
"""

import chex
import jax
import jax.numpy as jnp

from mr1jax.rl.masked import masked_mean, zero_masked
from mr1jax.structs import Array


def group_advantage(reward_PG: Array, eps: float = 1e-6) -> Array:
    """Compares each response with its group: GRPO's advantage of every token of the response.

        A_i = (r_i - mean(r)) / (std(r) + eps)

    Source: arXiv:2402.03300, section 4.1.2, without its eps. The paper leaves the kind of std open; this is the sample deviation
    (division by G - 1), as in veRL, with which Memory-R1 was trained. A group of equal rewards says nothing and gets exactly 0.

    reward_PG: float32[P, G] with G > 1. Returns float32[P, G].
    """
    chex.assert_rank(reward_PG, 2)
    centred_PG = reward_PG - jnp.mean(reward_PG, axis=1, keepdims=True)
    std_P1 = jnp.std(reward_PG, axis=1, keepdims=True, ddof=1)
    # The mean of equal numbers need not equal them in float32, and std is then as small as that error: 0 must be said, not computed.
    return jnp.where(is_dead(reward_PG)[:, None], 0.0, centred_PG / (std_P1 + eps))


def centred_advantage(reward_PG: Array) -> Array:
    """Compares each response with the mean of its group and leaves the scale of rewards as it is: Dr. GRPO's advantage.

        A_i = r_i - mean(r)

    Source: arXiv:2503.20783, section 3.2. Division by the deviation would weigh a question more the more nearly all answers to it are
    right, or wrong. A group of equal rewards gets exactly 0.

    reward_PG: float32[P, G] with G > 1. Returns float32[P, G].
    """
    chex.assert_rank(reward_PG, 2)
    return jnp.where(is_dead(reward_PG)[:, None], 0.0, reward_PG - jnp.mean(reward_PG, axis=1, keepdims=True))


def dead_group_share(reward_PG: Array) -> Array:
    """Measures the share of groups whose rewards are all equal, whose advantages are all 0. reward_PG: [P, G]. Returns float32[]."""
    return jnp.mean(is_dead(reward_PG), dtype=jnp.float32)


def group_spread(reward_PG: Array) -> Array:
    """Measures how far apart the rewards of a group are: their deviation (division by G), averaged over groups. Returns float32[]."""
    return jnp.mean(jnp.std(reward_PG, axis=1))


def is_dead(reward_PG: Array) -> Array:
    """Tells which groups have rewards that are all equal. reward_PG: [P, G]. Returns bool[P]."""
    return jnp.all(reward_PG == reward_PG[:, :1], axis=1)


def token_reward(reward_PG: Array, length_PG: Array, num_tokens: int) -> Array:
    """Pays the reward of a response on its last token, the end token where there is one.

    reward_PG: float32[P, G]; length_PG: int32[P, G], 0 for no response at all: nothing is paid. Returns float32[P, G, R], R = num_tokens.
    """
    chex.assert_equal_shape([reward_PG, length_PG])
    is_last_PGR = jax.nn.one_hot(length_PG - 1, num_tokens, dtype=bool)
    return jnp.where(is_last_PGR, reward_PG[..., None], 0.0)


def gae(reward: Array, value: Array, mask: Array, *, gamma: float, gae_lambda: float) -> tuple[Array, Array]:
    """Estimates advantages and value targets over the last axis, the tokens of a response.

        delta_t = r_t + gamma * V_{t+1} - V_t
        A_t     = delta_t + gamma * lambda * A_{t+1}          target_t = A_t + V_t

    Source: arXiv:1506.02438, equation 16 in its recursive form. After the last token V and A are 0: a response ends there, also one that
    was cut off at R tokens, since its reward was paid.

    reward, value: float32[..., R]; mask: bool[..., R], True up to the last token of a row. Returns (advantage, target), float32[..., R],
    0 where masked.
    """
    chex.assert_equal_shape([reward, value, mask])
    reward, value = zero_masked(reward, mask), zero_masked(value, mask)
    next_value = jnp.concatenate([value[..., 1:], jnp.zeros_like(value[..., :1])], axis=-1)
    delta = reward + gamma * next_value - value

    def step_back(advantage, delta_t):
        advantage = delta_t + gamma * gae_lambda * advantage
        return advantage, advantage

    time_first = jnp.moveaxis(delta, -1, 0)
    _, advantage = jax.lax.scan(step_back, jnp.zeros_like(time_first[0]), time_first, reverse=True)
    advantage = jnp.moveaxis(advantage, 0, -1)
    return advantage, advantage + value


def whiten(advantage: Array, mask: Array, eps: float = 1e-8) -> Array:
    """Shifts and scales the advantages of a batch to mean 0 and standard deviation 1 over all of its tokens.

        A' = (A - mean(A)) / sqrt(var(A) + eps),  var with division by the count

    Source: no paper defines it; PPO implementations do it (openai/baselines ppo2, per minibatch; TRL and veRL over tokens, with this eps).

    advantage: float32[...], mask: bool[...]. Returns the same shape, 0 where masked; all 0 if all advantages are equal.
    """
    centred = zero_masked(zero_masked(advantage, mask) - masked_mean(advantage, mask), mask)
    return centred * jax.lax.rsqrt(masked_mean(jnp.square(centred), mask) + eps)
