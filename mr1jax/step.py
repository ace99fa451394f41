"""One training step as ONE program: rollout, operations, retrieval, answers, reward, advantage, loss and update.

    tasks -> rollout (G responses a task, what they do to the bank, exact match) -> advantages
          -> epochs x minibatches of: score the responses again, loss, gradient, AdamW
          -> new state, metrics

`compile_train_step` is the only place where training meets `jax.jit`; donation and shardings are given there and nowhere else.

With LoRA both agents are adapters on one base. The base is an argument of the step and no part of its state: it is never donated,
returned or saved, and no second copy of it is made. It is also the reference of the KL term.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mr1jax.agents.play import manager_rollout
from mr1jax.agents.prompts import Language
from mr1jax.agents.rollout import AnswerTask, ManagerTask, Metrics, Reading, answer_rollout, read
from mr1jax.config import Config, replace
from mr1jax.model.transformer import Cache, logical_axes
from mr1jax.rl.advantages import dead_group_share, group_spread, is_dead
from mr1jax.rl.guard import init_guard
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
from mr1jax.structs import Array, PyTree, TrainState, Trajectory
from mr1jax.update import Learnt, make_loss_batch, make_optimizer, on_base, own_params, run_update_once, run_updates

Tasks = AnswerTask | ManagerTask


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
    trajectory, metrics = draw_rollout(on_base(state.params, base), tasks, rollout_key, language, config, reading)
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
        reading = read(own_params({config.agent: trained}, base, config), constrain_batch(tasks), language, config)
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
