"""What each algorithm is made of, in one table: which advantage, which ratio under the clip, which mean.

The equations are functions of `advantages` and `losses`, and here they meet: the loss of a batch, and how parts of a batch make up the
whole. Where a rollout serves one update, as in the demo, every ratio is 1 and no clip acts. The algorithms then differ by advantage and
by how they weigh tokens alone: GSPO is GRPO.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from mr1jax.config import LossConfig
from mr1jax.rl.advantages import centred_advantage, group_advantage
from mr1jax.rl.losses import (
    LossBatch,
    budget_mean,
    clip_fraction,
    clipped_surrogate_loss,
    clipped_value_loss,
    geometric_ratio,
    kl_k3,
    ratio_gap,
    response_mean,
    token_mean,
    token_ratio,
)
from mr1jax.structs import Array


class Algorithm(NamedTuple):
    """One row of the table.

    advantage:    of a response among its group, float32[P, G] of rewards to float32[P, G]; None: a value function gives it, token by token
    ratio:        what is clipped, float32[P, G, R] of (log_prob, old_log_prob, mask)
    mean:         of the surrogate, float32[] of (float32[P, G, R], mask)
    clips_higher: whether the clip ends above at `clip_eps_high`; else both sides are `clip_eps`
    skips_dead:   whether groups of equal rewards are left out of the loss and of what its mean counts; else they count as zeros
    """

    advantage: Callable[[Array], Array] | None
    ratio: Callable[[Array, Array, Array], Array]
    mean: Callable[[Array, Array], Array]
    clips_higher: bool = False
    skips_dead: bool = False


ALGORITHMS = {
    # arXiv:1707.06347: a value function, and PPO's clip
    "ppo": Algorithm(None, token_ratio, token_mean),
    # arXiv:2402.03300: the group in place of the value function
    "grpo": Algorithm(group_advantage, token_ratio, response_mean),
    # arXiv:2503.20783: divides neither by the deviation of the group nor by the length of the response
    "dr_grpo": Algorithm(centred_advantage, token_ratio, budget_mean),
    # arXiv:2503.14476: GRPO with a clip that is wider above, all tokens alike, and no dead groups; `Config.prompts_kept` says how many
    # groups to draw for those that are trained on. Its penalty for overlong responses is a reward, and is not part of this
    "dapo": Algorithm(group_advantage, token_ratio, token_mean, clips_higher=True, skips_dead=True),
    # arXiv:2507.18071: GRPO that clips whole responses
    "gspo": Algorithm(group_advantage, geometric_ratio, response_mean, clips_higher=True),
}


def policy_loss(
    log_prob_PGR: Array, entropy_PGR: Array, value_PGR: Array, batch: LossBatch, config: LossConfig
) -> tuple[Array, dict[str, Array]]:
    """Computes the loss of `config.algorithm`, and its metrics.

        loss = surrogate + kl_coef * KL - entropy_coef * H + value_coef * value_loss      (the last under PPO only)

    Source: arXiv:2402.03300, equation 3 (negated); arXiv:1707.06347, equation 9 (negated). KL and entropy are means over tokens or over
    responses, of whichever the surrogate's mean counts, in nats a token under every algorithm.

    log_prob_PGR, entropy_PGR: float32[P, G, R] of the model that trains, entropy of the distribution that the token was drawn from;
    value_PGR: float32[P, G, R], read under PPO only. Returns (float32[], dict of float32[]).
    """
    algorithm, mask = ALGORITHMS[config.algorithm], batch.mask
    mean = token_mean if _counts_tokens(config) else response_mean
    ratio = algorithm.ratio(log_prob_PGR, batch.old_log_prob, mask)
    clip = {"clip_eps": config.clip_eps, "clip_eps_high": config.clip_eps_high if algorithm.clips_higher else config.clip_eps}
    metrics = {
        "surrogate": algorithm.mean(clipped_surrogate_loss(ratio, batch.advantage, mask, **clip), mask),
        "entropy": mean(entropy_PGR, mask),
        "clip_fraction": clip_fraction(ratio, batch.advantage, mask, **clip),
        "ratio_gap": ratio_gap(log_prob_PGR, batch.old_log_prob, mask),
    }
    loss = metrics["surrogate"]
    if config.entropy_coef > 0:  # not a product with 0, which would still run the backward pass of the entropy
        loss -= config.entropy_coef * metrics["entropy"]
    if batch.ref_log_prob is not None:
        metrics["kl"] = mean(kl_k3(log_prob_PGR, batch.ref_log_prob, mask), mask)
        loss += config.kl_coef * metrics["kl"]
    if algorithm.advantage is None:
        value_loss = clipped_value_loss(value_PGR, batch.old_value, batch.target, mask, value_clip_eps=config.value_clip_eps)
        metrics["value_loss"] = mean(value_loss, mask)
        loss += config.value_coef * metrics["value_loss"]
    return loss, metrics | {"loss": loss}


def part_weights(mask_MPGR: Array, config: LossConfig) -> Array:
    """Weighs M parts of a batch so that the loss of the batch is the weighted sum of theirs.

        w_m = n_m / sum_k n_k,   n_m the number in part m of what the mean counts: tokens (PPO, DAPO) or responses that have tokens

    mask_MPGR: bool[M, P, G, R]. Returns float32[M].
    """
    return _share(mask_MPGR if _counts_tokens(config) else jnp.any(mask_MPGR, axis=-1))


def join_metrics(metrics: dict[str, Array], mask_MPGR: Array, config: LossConfig) -> dict[str, Array]:
    """Makes the metrics that `policy_loss` would give of a whole batch from those of its M parts, a leading axis of each."""
    weight_M = part_weights(mask_MPGR, config)
    joined = {name: jnp.tensordot(weight_M, value, axes=1) for name, value in metrics.items()}
    return joined | {
        "clip_fraction": jnp.dot(_share(mask_MPGR), metrics["clip_fraction"]),
        "ratio_gap": jnp.max(metrics["ratio_gap"]),
    }


def _counts_tokens(config: LossConfig) -> bool:
    return ALGORITHMS[config.algorithm].mean is token_mean


def _share(counted: Array) -> Array:
    """Gives the share that each row along the leading axis has in what is counted, bool[M, ...]; 0 where nothing is."""
    count_M = jnp.sum(counted, axis=tuple(range(1, counted.ndim)), dtype=jnp.float32)
    return count_M / jnp.maximum(jnp.sum(count_M), 1.0)
