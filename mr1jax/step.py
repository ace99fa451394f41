"""One training step as ONE program: rollout, operations, retrieval, answers, reward, advantage, loss and update.

    tasks -> rollout (G responses a task, what they do to the bank, exact match) -> advantages
          -> epochs x minibatches of: score the responses again, loss, gradient, AdamW
          -> new state, metrics

`compile_train_step` is the only place where training meets `jax.jit`; donation and shardings are given there and nowhere else.

With LoRA both agents are adapters on one base. The base is an argument of the step and no part of its state: it is never donated,
returned or saved, and no second copy of it is made. It is also the reference of the KL term.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from mr1jax.agents.play import manager_rollout
from mr1jax.agents.prompts import Language
from mr1jax.agents.rollout import AnswerTask, ManagerTask, Metrics, Reading, answer_rollout, read
from mr1jax.config import Config, replace
from mr1jax.model.lora import BASE, agent_params
from mr1jax.model.transformer import Cache, logical_axes, prefill
from mr1jax.rl.advantages import dead_group_share, gae, group_spread, is_dead, token_reward, whiten
from mr1jax.rl.algorithms import ALGORITHMS, join_metrics, part_weights, policy_loss
from mr1jax.rl.guard import init_guard, is_sound, remember
from mr1jax.rl.losses import LossBatch
from mr1jax.rl.sampling import Scores, score
from mr1jax.sharding import (
    batch_sharding,
    constrain_batch,
    gather_fsdp,
    join_batch,
    on_mesh,
    param_sharding,
    replicated,
    split_batch,
    state_sharding,
)
from mr1jax.structs import Array, Guard, PyTree, TrainState, Trajectory

Tasks = AnswerTask | ManagerTask
Learnt = tuple[PyTree, PyTree, Guard | None]  # what an update changes: the trained agent's parameters, its optimizer state, the guard


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """Clipped AdamW, warmed up to a constant learning rate."""
    c = config.optimizer
    rate = optax.linear_schedule(c.learning_rate / (c.warmup_steps + 1), c.learning_rate, c.warmup_steps)
    adamw = optax.adamw(rate, b1=c.b1, b2=c.b2, weight_decay=c.weight_decay)
    return optax.chain(optax.clip_by_global_norm(c.max_grad_norm), adamw)


def init_state(config: Config, params: dict[str, PyTree], key: Array) -> TrainState:
    """Starts a run from the parameters of both agents; the trained one's are copied as the reference where there is a KL term.

    With LoRA these are the two adapters, and nothing is copied: the reference is the base.
    """
    trained = params[config.agent]
    return TrainState(
        params=params,
        reference=jax.tree.map(jnp.copy, trained) if config.loss.kl_coef > 0 and not config.lora.rank else None,
        opt_state=make_optimizer(config).init(trained),
        step=jnp.int32(0),
        key=key,
        guard=init_guard(config.optimizer.spike_sigmas),
    )


def train_step(
    state: TrainState, tasks: Tasks, language: Language, base: PyTree | None = None, *, config: Config
) -> tuple[TrainState, Metrics]:
    """Does one step of `config.loss.algorithm` on P tasks (leading axis of every leaf). Pure; the state's key is folded with its step.

    base: what the adapters in the state are laid over, None where its parameters are whole. Returns the state after and float32[] metrics.
    `ratio_gap` is of the first update, where sampler and trainer must agree; `skipped` is the share of updates that were not done, because
    a number was not finite or a spike.
    """
    rollout_key, shuffle_key = jax.random.split(jax.random.fold_in(state.key, state.step))
    reading, pull_back = read_once(state, tasks, language, config, base) if reads_once(config) else (None, None)
    trajectory, metrics = draw_rollout(_on_base(state.params, base), tasks, rollout_key, language, config, reading)
    metrics |= {"dead_groups": dead_group_share(trajectory.reward), "reward_std": group_spread(trajectory.reward)}
    if config.prompts_trained < config.prompts_per_step:
        trajectory = keep_live(trajectory, config.prompts_trained)
    reference = base if config.lora.rank and config.loss.kl_coef > 0 else state.reference
    with jax.named_scope("reference"):
        batch = make_loss_batch(trajectory, reference, language, config)
    with jax.named_scope("update"):
        if reading is None:
            learnt, updates = run_updates(state, trajectory, batch, shuffle_key, language, config, base)
        else:
            learnt, updates = run_update_once(state, reading.cache, pull_back, trajectory, batch, language, config, base)
    metrics |= {name: value[0] if name == "ratio_gap" else jnp.mean(value) for name, value in updates.items()}
    return next_state(state, learnt, config), metrics


def next_state(state: TrainState, learnt: Learnt, config: Config) -> TrainState:
    """Puts what was learnt in its place, a step further."""
    trained, opt_state, guard = learnt
    return replace(state, params=state.params | {config.agent: trained}, opt_state=opt_state, guard=guard, step=state.step + 1)


def reads_once(config: Config) -> bool:
    """Says whether the loss uses the rollout's pass over the prompts: where one update sees the whole batch, and no part of it waits.

    Where only some groups are kept it does not: going back through the prompts of all would cost more than reading those of the kept again.
    """
    loss = config.loss
    if config.prompts_trained < config.prompts_per_step:
        return False
    return max(loss.epochs, loss.num_minibatches, loss.num_microbatches, config.rollout_microbatches) == 1


def read_once(
    state: TrainState, tasks: Tasks, language: Language, config: Config, base: PyTree | None = None
) -> tuple[Reading, Callable[[Cache], tuple[PyTree]]]:
    """Reads the prompts for rollout and loss in one pass: the first update is of the very parameters that the rollout is drawn with.

    Returns what the rollout needs, and the function that takes a cotangent of the cache to that of the trained agent's parameters.
    """

    def of(trained: PyTree) -> tuple[Cache, Reading]:
        reading = read(_own({config.agent: trained}, base, config), constrain_batch(tasks), language, config)
        return reading.cache, reading

    cache, pull_back, reading = jax.vjp(of, state.params[config.agent], has_aux=True)
    return replace(reading, cache=cache), pull_back


def draw_rollout(
    params: dict[str, PyTree], tasks: Tasks, key: Array, language: Language, config: Config, reading: Reading | None = None
) -> tuple[Trajectory, Metrics]:
    """Draws the trajectory of a batch of tasks, in `config.rollout_microbatches` parts one after another, and its metrics."""
    if config.mesh.gather_for_rollout:
        params = {name: gather_fsdp(tree, logical_axes(tree)) for name, tree in params.items()}
    rollout = answer_rollout if config.agent == "answerer" else manager_rollout
    if config.rollout_microbatches == 1:
        trajectory, metrics = rollout(params, constrain_batch(tasks), key, language, config, reading)
        return constrain_batch(trajectory), metrics
    parts = split_batch(tasks, config.rollout_microbatches)
    keys = jax.random.split(key, config.rollout_microbatches)
    trajectory, metrics = jax.lax.map(lambda of: rollout(params, of[0], of[1], language, config), (parts, keys))
    return constrain_batch(join_batch(trajectory)), jax.tree.map(jnp.mean, metrics)


def keep_live(trajectory: Trajectory, num_kept: int) -> Trajectory:
    """Keeps `num_kept` of P groups: those whose rewards differ, in the order they were drawn in, and then dead ones until it is enough.

    DAPO's dynamic sampling (arXiv:2503.14476, section 3.2) in fixed shapes: the paper draws until the batch is full of live groups, here
    a step draws so many groups, and no more.
    """
    order_P = jnp.argsort(is_dead(trajectory.reward), stable=True)
    return constrain_batch(jax.tree.map(lambda x: x[order_P[:num_kept]], trajectory))


def _on_base(params: PyTree, base: PyTree | None) -> PyTree:
    return params if base is None else params | {BASE: base}


def _own(params: PyTree, base: PyTree | None, config: Config) -> PyTree:
    """Gives the whole parameters of the trained agent."""
    return agent_params(_on_base(params, base), config.agent, config.lora)


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
        scores = score_trajectory(_own({config.agent: params}, base, config), trajectory, language, config, cache)
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
            scores = score_trajectory(_own({config.agent: params}, base, config), part, language, config)
            value, metrics = policy_loss(scores.log_prob, scores.entropy, scores.value, part_batch, config.loss)
            return weight * value, metrics

        gradient, metrics = jax.grad(loss, has_aux=True)(params)
        return jax.tree.map(jnp.add, total, gradient), metrics

    zeros = jax.tree.map(lambda param: jnp.zeros(param.shape, jnp.float32), params)
    gradient, metrics = jax.lax.scan(add, zeros, (parts, part_weights(mask_MPGR, config.loss)))
    return gradient, join_metrics(metrics, mask_MPGR, config.loss)


def compile_train_step(
    config: Config, mesh: Mesh, state: TrainState, base: PyTree | None = None
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Builds the one jitted step for a mesh: (state, tasks, language), and the base where there is one, to (state, metrics).

    The state is donated and keeps its layout; tasks are cut along their leading axis.
    """
    axes = logical_axes(state.params[config.agent])
    of_state = state_sharding(state, axes, mesh)

    of_base = () if base is None else (param_sharding(base, logical_axes(base), mesh),)

    def step(state: TrainState, tasks: Tasks, language: Language, *base: PyTree):
        with on_mesh(mesh):
            return train_step(state, tasks, language, *base, config=config)

    return jax.jit(
        step,
        in_shardings=(of_state, batch_sharding(mesh), replicated(mesh), *of_base),
        out_shardings=(of_state, replicated(mesh)),
        donate_argnums=0,
    )
