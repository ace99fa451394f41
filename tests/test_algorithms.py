"""Dr. GRPO, DAPO and GSPO as their papers write them: losses in Python floats, groups picked by hand, and what they are on policy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from test_layouts import OPTIMIZER, SLOW, assert_same_run
from test_step import (
    CONFIG,
    LANGUAGE,
    MANAGER,
    G,
    P,
    answer_tasks,
    first_key,
    program,
    random_answer_tasks,
    rollout,
    scores,
    start_params,
    three_steps,
)
from tiny import unoptimised  # noqa: F401

from mr1jax.config import LossConfig, MeshConfig, replace
from mr1jax.rl import algorithms
from mr1jax.rl.losses import LossBatch
from mr1jax.step import keep_live, reads_once
from mr1jax.update import make_loss_batch

NAMES = ("dr_grpo", "dapo", "gspo")
SHAPE = (3, 4, 5)
policy_gradient = jax.jit(jax.grad(algorithms.policy_loss, has_aux=True), static_argnames="config")


def clipped(ratio, advantage, low, high):
    return min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)


def loop_objective(name, log_ratios, advantage, low, high):
    """What one response adds to the objective, and what this is divided by the sum of; R is the budget of tokens."""
    if name == "gspo":
        return clipped(math.exp(sum(log_ratios) / len(log_ratios)), advantage, low, high), 1
    of_tokens = sum(clipped(math.exp(x), advantage, low, high if name == "dapo" else low) for x in log_ratios)
    return of_tokens, SHAPE[2] if name == "dr_grpo" else len(log_ratios)


def loop_loss(name, log_prob, old_log_prob, advantage_PG, length_PG, low, high):
    """The negated objective of each paper, response by response, in Python floats."""
    parts = []
    for at in np.ndindex(SHAPE[:2]):
        log_ratios = (log_prob[at] - old_log_prob[at])[: length_PG[at]].tolist()
        parts.append(loop_objective(name, log_ratios, float(advantage_PG[at]), low, high))
    return -sum(part for part, _ in parts) / sum(size for _, size in parts)


@pytest.fixture(scope="module")
def responses():
    """Log-probabilities new and old, far enough apart for every clip, an advantage a response, and lengths from 1 to 5."""
    rng = np.random.default_rng(3)
    old = -rng.exponential(size=SHAPE)
    return old + rng.normal(scale=0.4, size=SHAPE), old, rng.normal(size=SHAPE[:2]), rng.integers(1, 6, SHAPE[:2])


def batch_of(old, advantage_PG, length_PG):
    old, advantage = (jnp.asarray(x, jnp.float32) for x in (old, np.broadcast_to(advantage_PG[..., None], SHAPE)))
    return LossBatch(old, advantage, jnp.arange(SHAPE[2])[None, None] < jnp.asarray(length_PG)[..., None], None, None)


@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradient_are_those_of_the_paper(responses, name):
    """Oracle: a loop over responses in Python floats, and its central differences; the upper clip is three times as wide as the lower."""
    log_prob, old, advantage_PG, length_PG = responses
    config = LossConfig(algorithm=name, clip_eps=0.1, clip_eps_high=0.3)
    batch, unread = batch_of(old, advantage_PG, length_PG), jnp.zeros(SHAPE)
    gradient, metrics = policy_gradient(jnp.asarray(log_prob, jnp.float32), unread, unread, batch, config)
    constants = (old, advantage_PG, length_PG, 0.1, 0.3)
    np.testing.assert_allclose(metrics["loss"], loop_loss(name, log_prob, *constants), rtol=1e-4)
    assert 0 < metrics["clip_fraction"] < 1
    expected = np.zeros(SHAPE)
    for at in np.ndindex(SHAPE):
        step = np.zeros(SHAPE)
        step[at] = 1e-6
        expected[at] = (loop_loss(name, log_prob + step, *constants) - loop_loss(name, log_prob - step, *constants)) / 2e-6
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


def on_policy_gradient(name, responses, reward_PG):
    """The gradient of an algorithm's loss by log-probabilities in the first update of a rollout, its advantage included."""
    log_prob, _, _, length_PG = responses
    advantage_PG = algorithms.ALGORITHMS[name].advantage(jnp.asarray(reward_PG, jnp.float32))
    batch, unread = batch_of(log_prob, np.asarray(advantage_PG), length_PG), jnp.zeros(SHAPE)
    gradient, metrics = policy_gradient(jnp.asarray(log_prob, jnp.float32), unread, unread, batch, LossConfig(algorithm=name))
    assert metrics["clip_fraction"] == 0
    return np.asarray(gradient)


def test_on_policy_some_algorithms_are_one(responses):
    """Oracle: by hand. At ratio 1 GSPO is GRPO; Dr. GRPO's gradient is that of REINFORCE, -A_i / (P G R) on every token, where A_i is
    what the others of the group have less than i, times (G - 1) / G."""
    P, G, R = SHAPE
    reward_PG = np.random.default_rng(4).integers(0, 2, (P, G))
    of = {name: on_policy_gradient(name, responses, reward_PG) for name in ("grpo", *NAMES)}
    np.testing.assert_allclose(of["gspo"], of["grpo"], rtol=1e-5, atol=1e-7)
    others_PG = (reward_PG.sum(axis=1, keepdims=True) - reward_PG) / (G - 1)
    reinforce = np.where(np.arange(R) < responses[3][..., None], (others_PG - reward_PG)[..., None] / (P * G), 0)
    assert np.any(reinforce)
    np.testing.assert_allclose(of["dr_grpo"] * R * G / (G - 1), reinforce, rtol=1e-5, atol=1e-7)


# -------------------------------------------------------------------------------------------------------------- dynamic sampling


def trajectory_of(reward_PG):
    """A rollout of the tiny Answer Agent with other rewards."""
    drawn = rollout()(tiny.both(), answer_tasks(), first_key())
    return drawn.replace(reward=jnp.asarray(reward_PG, jnp.float32))


def rewards(live):
    """One rewarded member in the groups that are to live, all or none in the others."""
    reward_PG = np.zeros((P, G))
    reward_PG[1::2] = 1
    reward_PG[live] = np.eye(G)[0]
    return reward_PG


@pytest.mark.parametrize(("live", "kept"), [([1, 4, 6], [1, 4, 6, 0]), ([0, 2, 3, 5, 7], [0, 2, 3, 5]), ([], [0, 1, 2, 3])])
def test_live_groups_are_kept_first(live, kept):
    """Oracle: lists by hand: the live ones as they were drawn, then the dead; every part of a group goes with it."""
    trajectory = trajectory_of(rewards(live))
    got = jax.jit(keep_live, static_argnums=1)(trajectory, 4)
    tiny.assert_equal(got, tiny.at(trajectory, np.array(kept)))


@pytest.mark.parametrize("name", ["grpo", "dapo"])
def test_only_dapo_leaves_dead_groups_out(name):
    """Oracle: counting tokens. Under DAPO a batch with dead groups has the loss of its live ones alone; under GRPO they thin it."""
    config, live = replace(CONFIG, loss=LossConfig(algorithm=name)), [2, 5, 6]
    trajectory = trajectory_of(rewards(live))
    batch = make_loss_batch(trajectory, None, LANGUAGE, config)
    tokens_P = np.sum(trajectory.generation.length, axis=1)
    trained = live if name == "dapo" else range(P)
    np.testing.assert_array_equal(np.sum(batch.mask, axis=(1, 2)), [tokens_P[p] * (p in trained) for p in range(P)])
    off_policy = batch.old_log_prob + 0.1
    loss, alone = (
        algorithms.policy_loss(x, x, x, of, config.loss)[0]
        for x, of in ((off_policy, batch), (off_policy[np.array(live)], tiny.at(batch, np.array(live))))
    )
    share = 1 if name == "dapo" else len(live) / P
    np.testing.assert_allclose(loss, alone * share, rtol=1e-5)


def test_kept_prompts_are_read_again():
    """Oracle: by hand; what a step reads once it reads of all the prompts it draws from."""
    assert reads_once(replace(CONFIG, prompts_kept=P))
    assert not reads_once(replace(CONFIG, prompts_kept=P // 2))


# ------------------------------------------------------------------------------------------------------------ the compiled step

DAPO = replace(CONFIG, loss=LossConfig(algorithm="dapo", kl_coef=0.1), optimizer=OPTIMIZER, prompts_kept=P // 2)
CONFIGS = {
    "dr_grpo": replace(MANAGER, loss=LossConfig(algorithm="dr_grpo"), optimizer=OPTIMIZER),
    "dapo": DAPO,
    "gspo": replace(CONFIG, loss=LossConfig(algorithm="gspo", epochs=2), optimizer=OPTIMIZER),
}


@pytest.mark.parametrize("name", [name if name == "dapo" else pytest.param(name, marks=SLOW) for name in CONFIGS])
def test_every_algorithm_trains_in_one_program(name):
    """Oracle: what JAX reports of its compiler after the first step, ratio 1 in every first update, and the parameters at the start."""
    config = CONFIGS[name]
    params, records, _, compiled = three_steps(config)
    assert compiled == []
    assert program(config).step._cache_size() == 1
    assert all(record["ratio_gap"] < 1e-5 for record in records)
    assert records[0]["grad_norm"] > 1e-4
    assert records[0]["skipped"] == 0
    trained = config.agent
    moved = jax.tree.map(lambda new, old: bool(np.any(new != old)), params[trained], start_params(config)[trained])
    assert not moved.pop("value_head")
    assert jax.tree.all(moved)


def test_a_step_trains_on_the_groups_it_keeps():
    """Oracle: the entropy of the tokens of the first four live groups of the step's rollout, picked from its rewards in numpy."""
    _, (first, *_), *_ = three_steps(DAPO)
    trajectory = rollout()(tiny.both(), answer_tasks(), first_key())
    live = np.flatnonzero(np.ptp(trajectory.reward, axis=1))
    assert len(live) > DAPO.prompts_kept  # or dead ones would have to fill up, and be masked
    entropy_PGR = np.asarray(scores()(tiny.both()["answerer"], trajectory).entropy)
    kept, length = live[: DAPO.prompts_kept], np.asarray(trajectory.generation.length)
    np.testing.assert_allclose(first["entropy"], np.sum(entropy_PGR[kept]) / np.sum(length[kept]), rtol=1e-5)
    assert first["dead_groups"] == 1 - len(live) / P


@SLOW
@pytest.mark.parametrize("name", CONFIGS)
def test_microbatches_make_the_same_run(name):
    """Oracle: the run without."""
    config = CONFIGS[name]
    assert_same_run(replace(config, loss=replace(config.loss, num_microbatches=4)), config)


@SLOW
@pytest.mark.parametrize("name", ["dapo", "dr_grpo"])
def test_eight_devices_do_what_one_does(name):
    """Oracle: three steps on one device, whose groups are kept and given up by what all devices drew."""
    assert_same_run(replace(CONFIGS[name], mesh=MeshConfig(2, 2, 2)), CONFIGS[name])


def test_a_step_without_live_groups_teaches_nothing():
    """Oracle: the parameters at the start, bit for bit; nothing is left to take a mean of, and nothing is skipped as unsound."""
    state, (metrics,) = program(DAPO).run(program(DAPO).start(), random_answer_tasks(0, gold="zzz"))
    assert (metrics["dead_groups"], metrics["grad_norm"], metrics["skipped"]) == (1, 0, 0)
    tiny.assert_equal(state.params, start_params(DAPO))
