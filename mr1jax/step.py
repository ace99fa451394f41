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
import optax
from jax.sharding import Mesh

from mr1jax.agents.prompts import Language
from mr1jax.agents.rollout import AnswerTask, ManagerTask, Metrics, answer_rollout, manager_rollout
from mr1jax.config import Config, replace
from mr1jax.model.lora import BASE, agent_params
from mr1jax.model.transformer import logical_axes
from mr1jax.rl.advantages import dead_group_share, gae, group_advantage, token_reward, whiten
from mr1jax.rl.losses import LossBatch, policy_loss
from mr1jax.rl.sampling import Scores, score
from mr1jax.sharding import batch_sharding, constrain_batch, param_sharding, replicated, state_sharding
from mr1jax.structs import Array, PyTree, TrainState, Trajectory

Tasks = AnswerTask | ManagerTask


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
    )


def train_step(
    state: TrainState, tasks: Tasks, language: Language, base: PyTree | None = None, *, config: Config, mesh: Mesh
) -> tuple[TrainState, Metrics]:
    """Does one step of GRPO or PPO on P tasks (leading axis of every leaf). Pure; the state's key is folded with its step.

    base: what the adapters in the state are laid over, None where its parameters are whole. Returns the state after and float32[] metrics.
    `ratio_gap` is of the first update, where sampler and trainer must agree.
    """
    rollout_key, shuffle_key = jax.random.split(jax.random.fold_in(state.key, state.step))
    rollout = answer_rollout if config.agent == "answerer" else manager_rollout
    params = _on_base(state.params, base)
    trajectory, metrics = rollout(params, constrain_batch(tasks, mesh), rollout_key, language, config)
    trajectory = constrain_batch(trajectory, mesh)
    reference = base if config.lora.rank and config.loss.kl_coef > 0 else state.reference
    with jax.named_scope("reference"):
        batch = make_loss_batch(trajectory, reference, language, config)
    with jax.named_scope("update"):
        trained, opt_state, updates = run_updates(state, trajectory, batch, shuffle_key, language, config, mesh, base)
    metrics |= {name: value[0] if name == "ratio_gap" else jnp.mean(value) for name, value in updates.items()}
    metrics["dead_groups"] = dead_group_share(trajectory.reward)
    params = state.params | {config.agent: trained}
    return replace(state, params=params, opt_state=opt_state, step=state.step + 1), metrics


def _on_base(params: PyTree, base: PyTree | None) -> PyTree:
    return params if base is None else params | {BASE: base}


def make_loss_batch(trajectory: Trajectory, reference: PyTree | None, language: Language, config: Config) -> LossBatch:
    """Computes what the loss holds constant: advantages, value targets, and the reference's log-probabilities where KL is on."""
    generation, reward_PG = trajectory.generation, trajectory.reward
    R = generation.tokens.shape[2]
    mask_PGR = jnp.arange(R)[None, None] < generation.length[..., None]
    if config.loss.algorithm == "grpo":
        advantage_PGR = jnp.broadcast_to(group_advantage(reward_PG)[..., None], mask_PGR.shape)
        target_PGR = None
    else:
        reward_PGR = token_reward(reward_PG, generation.length, R)
        raw_PGR, target_PGR = gae(reward_PGR, generation.value, mask_PGR, gamma=config.loss.gamma, gae_lambda=config.loss.gae_lambda)
        advantage_PGR = whiten(raw_PGR, mask_PGR)
    return LossBatch(
        old_log_prob=generation.log_prob,
        advantage=advantage_PGR,
        mask=mask_PGR,
        ref_log_prob=None if reference is None else score_trajectory(reference, trajectory, language, config).log_prob,
        old_value=None if target_PGR is None else generation.value,
        target=target_PGR,
    )


def score_trajectory(params: PyTree, trajectory: Trajectory, language: Language, config: Config) -> Scores:
    """Scores the trained agent's responses under `params`, by the very distribution they were drawn from."""
    return score(
        config.model,
        params,
        trajectory.prompt,
        trajectory.prompt_length,
        trajectory.generation,
        grammar=language.answerer if config.agent == "answerer" else language.manager,
        temperature=config.sampling.temperature,
        num_tokens=config.trained.response_length,
    )


def run_updates(
    state: TrainState,
    trajectory: Trajectory,
    batch: LossBatch,
    key: Array,
    language: Language,
    config: Config,
    mesh: Mesh,
    base: PyTree | None = None,
) -> tuple[PyTree, PyTree, Metrics]:
    """Updates the trained agent on every minibatch of every epoch, in a fresh order each epoch; a group is never divided.

    Returns (parameters, optimizer state, metrics with a leading axis of updates).
    """
    tx = make_optimizer(config)
    P, num_minibatches = trajectory.prompt_length.size, config.loss.num_minibatches

    def update(carry, index_p):
        params, opt_state = carry
        part, part_batch = constrain_batch(jax.tree.map(lambda x: x[index_p], (trajectory, batch)), mesh)

        def loss(params):
            own = agent_params(_on_base({config.agent: params}, base), config.agent, config.lora)
            scores = score_trajectory(own, part, language, config)
            return policy_loss(scores.log_prob, scores.entropy, scores.value, part_batch, config.loss)

        gradient, metrics = jax.grad(loss, has_aux=True)(params)
        metrics["grad_norm"] = optax.global_norm(gradient)
        step, opt_state = tx.update(gradient, opt_state, params)
        return (optax.apply_updates(params, step), opt_state), metrics

    order = jax.vmap(lambda k: jax.random.permutation(k, P))(jax.random.split(key, config.loss.epochs))
    order = order.reshape(config.loss.epochs * num_minibatches, P // num_minibatches)
    (params, opt_state), metrics = jax.lax.scan(update, (state.params[config.agent], state.opt_state), order)
    return params, opt_state, metrics


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
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return train_step(state, tasks, language, *base, config=config, mesh=mesh)

    return jax.jit(
        step,
        in_shardings=(of_state, batch_sharding(mesh), replicated(mesh), *of_base),
        out_shardings=(of_state, replicated(mesh)),
        donate_argnums=0,
    )
