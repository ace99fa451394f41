"""What a step does with a trajectory: advantages, the loss over responses scored again, gradients in parts, AdamW.

Nothing here draws anything. The trained agent's parameters may be whole or an adapter on a base; both agents' losses are the same code.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax

from mr1jax.agents.prompts import Language
from mr1jax.agents.rollout import Metrics
from mr1jax.config import Config
from mr1jax.model.lora import BASE, agent_params
from mr1jax.model.transformer import Cache, prefill
from mr1jax.rl.advantages import gae, is_dead, token_reward, whiten
from mr1jax.rl.algorithms import ALGORITHMS, join_metrics, part_weights, policy_loss
from mr1jax.rl.guard import is_sound, remember
from mr1jax.rl.losses import LossBatch
from mr1jax.rl.sampling import Scores, score
from mr1jax.sharding import constrain_batch, join_batch, split_batch
from mr1jax.structs import Array, Guard, PyTree, TrainState, Trajectory

Learnt = tuple[PyTree, PyTree, Guard | None]  # what an update changes: the trained agent's parameters, its optimizer state, the guard


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """Clipped AdamW, warmed up to a constant learning rate."""
    c = config.optimizer
    rate = optax.linear_schedule(c.learning_rate / (c.warmup_steps + 1), c.learning_rate, c.warmup_steps)
    adamw = optax.adamw(rate, b1=c.b1, b2=c.b2, weight_decay=c.weight_decay)
    return optax.chain(optax.clip_by_global_norm(c.max_grad_norm), adamw)


def on_base(params: PyTree, base: PyTree | None) -> PyTree:
    """Lays the agents' adapters on their base, where there is one."""
    return params if base is None else params | {BASE: base}


def own_params(params: PyTree, base: PyTree | None, config: Config) -> PyTree:
    """Gives the whole parameters of the trained agent."""
    return agent_params(on_base(params, base), config.agent, config.lora)


def make_loss_batch(trajectory: Trajectory, reference: PyTree | None, language: Language, config: Config) -> LossBatch:
    """Computes what the loss holds constant: advantages, value targets, and the reference's log-probabilities where KL is on.

    All decisions of a member share its reward, and where it is compared with its group its advantage. Where the Manager's groups first
    went their own ways (`config.lead`) the shared prompts teach nothing.
    """
    algorithm = ALGORITHMS[config.loss.algorithm]
    generation, reward_PG = trajectory.generation, trajectory.reward
    R, num_decisions = generation.tokens.shape[2], generation.length.shape[1] // reward_PG.shape[1]
    mask_PGR = jnp.arange(R)[None, None] < generation.length[..., None]
    if config.lead:
        mask_PGR = mask_PGR.at[:, : reward_PG.shape[1]].set(False)
    if algorithm.skips_dead:
        mask_PGR &= ~is_dead(reward_PG)[:, None, None]
    if algorithm.advantage is not None:
        advantage_PG = jnp.tile(algorithm.advantage(reward_PG), (1, num_decisions))
        advantage_PGR = jnp.broadcast_to(advantage_PG[..., None], mask_PGR.shape)
        target_PGR = None
    else:
        reward_PGR = token_reward(jnp.tile(reward_PG, (1, num_decisions)), generation.length, R)
        raw_PGR, target_PGR = gae(reward_PGR, generation.value, mask_PGR, gamma=config.loss.gamma, gae_lambda=config.loss.gae_lambda)
        advantage_PGR = whiten(raw_PGR, mask_PGR)
    return LossBatch(
        old_log_prob=generation.log_prob,
        advantage=advantage_PGR,
        mask=mask_PGR,
        ref_log_prob=None if reference is None else _score_in_parts(reference, trajectory, language, config).log_prob,
        old_value=None if target_PGR is None else generation.value,
        target=target_PGR,
    )


def score_trajectory(params: PyTree, trajectory: Trajectory, language: Language, config: Config, cache: Cache | None = None) -> Scores:
    """Scores the trained agent's responses under `params`, by the very distribution they were drawn from.

    cache: the shared prompts, where they are read already under `params`.
    """
    score_at = partial(
        score,
        config.model,
        params,
        grammar=language.answerer if config.agent == "answerer" else language.manager,
        temperature=config.sampling.temperature,
        num_tokens=config.trained.response_length,
    )
    cache = cache or prefill(config.model, params, trajectory.prompt, trajectory.prompt_length)
    if trajectory.own_prompt is None:
        return score_at(cache, trajectory.generation)
    (P, G), (_, H, L) = trajectory.reward.shape, trajectory.own_prompt.shape
    shared, own = (jax.tree.map(lambda x, part=part: x[:, part], trajectory.generation) for part in (slice(G), slice(G, None)))
    own_prompts = constrain_batch((trajectory.own_prompt.reshape(P * H, L), trajectory.own_prompt_length.reshape(P * H)))
    own = jax.tree.map(lambda x: x.reshape(P * H, 1, *x.shape[2:]), own)
    scores = score_at(cache, shared), score_at(prefill(config.model, params, *own_prompts), own)
    return jax.tree.map(lambda *parts: jnp.concatenate([part.reshape(P, -1, *part.shape[2:]) for part in parts], axis=1), *scores)


def _score_in_parts(params: PyTree, trajectory: Trajectory, language: Language, config: Config) -> Scores:
    """Scores a trajectory a micro-batch at a time, so that no pass needs more memory than one of those."""
    parts = split_batch(trajectory, config.loss.num_minibatches * config.loss.num_microbatches)
    return join_batch(jax.lax.map(lambda part: score_trajectory(params, part, language, config), parts))


def run_updates(
    state: TrainState,
    trajectory: Trajectory,
    batch: LossBatch,
    key: Array,
    language: Language,
    config: Config,
    base: PyTree | None = None,
) -> tuple[Learnt, Metrics]:
    """Updates the trained agent on every minibatch of every epoch, in a fresh order each epoch; a group is never divided.

    Returns what was learnt, and metrics with a leading axis of updates.
    """
    P, num_minibatches = trajectory.prompt_length.size, config.loss.num_minibatches

    def update(learnt: Learnt, index_p: Array) -> tuple[Learnt, Metrics]:
        part, part_batch = constrain_batch(jax.tree.map(lambda x: x[index_p], (trajectory, batch)))
        gradient, metrics = loss_gradient(learnt[0], part, part_batch, language, config, base)
        return _descend(learnt, gradient, metrics, config)

    order = jax.vmap(lambda k: jax.random.permutation(k, P))(jax.random.split(key, config.loss.epochs))
    order = order.reshape(config.loss.epochs * num_minibatches, P // num_minibatches)
    return jax.lax.scan(update, (state.params[config.agent], state.opt_state, state.guard), order)


def run_update_once(
    state: TrainState,
    cache: Cache,
    pull_back: Callable[[Cache], tuple[PyTree]],
    trajectory: Trajectory,
    batch: LossBatch,
    language: Language,
    config: Config,
    base: PyTree | None = None,
) -> tuple[Learnt, Metrics]:
    """Does the one update of a step whose prompts `read_once` has read. The chain rule goes through the cache:

        d loss / d params = (at a fixed cache) + (d cache / d params)^T (d loss / d cache)

    Returns what `run_updates` does.
    """

    def loss(params: PyTree, cache: Cache) -> tuple[Array, Metrics]:
        scores = score_trajectory(own_params({config.agent: params}, base, config), trajectory, language, config, cache)
        return policy_loss(scores.log_prob, scores.entropy, scores.value, batch, config.loss)

    trajectory, batch = constrain_batch((trajectory, batch))
    params = state.params[config.agent]
    (gradient, of_cache), metrics = jax.grad(loss, argnums=(0, 1), has_aux=True, allow_int=True)(params, cache)
    gradient = jax.tree.map(jnp.add, gradient, *pull_back(of_cache))
    learnt, metrics = _descend((params, state.opt_state, state.guard), gradient, metrics, config)
    return learnt, jax.tree.map(lambda x: x[None], metrics)


def _descend(learnt: Learnt, gradient: PyTree, metrics: Metrics, config: Config) -> tuple[Learnt, Metrics]:
    """Does an update, unless something about it is not sound: then all stays as it was, bit for bit. Adds to the metrics of the loss."""
    params, opt_state, guard = learnt
    loss, norm = metrics["loss"], optax.global_norm(gradient)
    sound = is_sound(guard, loss, norm, config.optimizer.spike_sigmas)
    change, moved = make_optimizer(config).update(gradient, opt_state, params)
    after = (optax.apply_updates(params, change), moved, remember(guard, loss, norm))
    learnt = jax.tree.map(lambda new, old: jnp.where(sound, new, old), after, learnt)
    return learnt, metrics | {"grad_norm": norm, "skipped": 1.0 - sound}


def loss_gradient(
    params: PyTree, trajectory: Trajectory, batch: LossBatch, language: Language, config: Config, base: PyTree | None = None
) -> tuple[PyTree, Metrics]:
    """Differentiates the loss of one minibatch by the trained agent's parameters, a micro-batch at a time.

    The loss is a mean over tokens or responses, so each micro-batch counts by how many of them it has, and the sum is the gradient of
    the whole. Returns (gradient, accumulated in float32, and the metrics of the minibatch).
    """
    parts = split_batch((trajectory, batch), config.loss.num_microbatches)
    mask_MPGR = parts[1].mask

    def add(total, part_and_weight):
        (part, part_batch), weight = part_and_weight

        def loss(params):
            scores = score_trajectory(own_params({config.agent: params}, base, config), part, language, config)
            value, metrics = policy_loss(scores.log_prob, scores.entropy, scores.value, part_batch, config.loss)
            return weight * value, metrics

        gradient, metrics = jax.grad(loss, has_aux=True)(params)
        return jax.tree.map(jnp.add, total, gradient), metrics

    zeros = jax.tree.map(lambda param: jnp.zeros(param.shape, jnp.float32), params)
    gradient, metrics = jax.lax.scan(add, zeros, (parts, part_weights(mask_MPGR, config.loss)))
    return gradient, join_metrics(metrics, mask_MPGR, config.loss)
