"""Updates that are not done: of numbers that are not finite, and of spikes; nothing changes, and it is counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny import CONFIG, LANGUAGE, unoptimised  # noqa: F401

from mr1jax.agents import answerer
from mr1jax.config import LossConfig, OptimizerConfig, replace
from mr1jax.rl.guard import WINDOW, init_guard, is_sound, remember
from mr1jax.step import init_state, train_step
from reliability.numbers import PLANTS, Planted, check_plant
from reliability.outcome import Outcome


@pytest.fixture(scope="module")
def tasks():
    rng = np.random.default_rng(1)
    banks = [tiny.random_memories(rng) for _ in range(CONFIG.prompts_per_step)]
    return tiny.answer_tasks(banks, [(tiny.random_question(rng), "tea") for _ in banks])


@pytest.fixture(scope="module", params=["grpo", "ppo"])
def planted(request):
    """One program an algorithm, with a guard against spikes."""
    optimizer = OptimizerConfig(learning_rate=3e-3, warmup_steps=0, spike_sigmas=6.0)
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield Planted(replace(CONFIG, loss=LossConfig(algorithm=request.param), optimizer=optimizer), monkeypatch)


@pytest.mark.parametrize("plant", PLANTS)
def test_a_number_that_is_not_finite_skips_the_update(planted, tasks, plant):
    """Oracle: the state before, bit for bit, save the count of steps; with nothing planted parameters move, and nothing is skipped."""
    outcome = Outcome()
    check_plant(outcome, planted, tasks, plant, seed=0)
    assert outcome.is_clean, outcome.failures


def test_a_spike_skips_the_update_and_is_not_remembered(planted, tasks):
    """Oracle: the state before, bit for bit, of a step whose gradient is far above a planted history."""
    state = init_state(planted.config, tiny.both(), jax.random.key(0))
    after, metrics = planted(state, tasks, "nothing")
    assert int(after.guard.count) == 1
    np.testing.assert_array_equal(after.guard.history[:, 0], [metrics["loss"], metrics["grad_norm"]])
    calm = replace(state, guard=replace(state.guard, history=state.guard.history.at[1].set(1e-3), count=jnp.int32(20)))
    after, metrics = planted(calm, tasks, "nothing")
    assert metrics["skipped"] == 1
    assert metrics["grad_norm"] > 2e-3
    tiny.assert_equal(after.replace(step=calm.step), calm)


def test_one_bad_update_of_several_is_skipped_alone(tasks, monkeypatch):
    """Oracle: by hand. Of four minibatches of two groups one has a reward that is NaN: a quarter is skipped, and the rest is learnt."""
    config = replace(CONFIG, loss=LossConfig(num_minibatches=4))
    marked = replace(tasks, question=replace(tasks.question, answer_length=tasks.question.answer_length.copy()))
    marked.question.answer_length[3] = 0
    whole = answerer.reward
    monkeypatch.setattr(answerer, "reward", lambda t, n, q, *a, **k: jnp.where(q.answer_length == 0, jnp.nan, whole(t, n, q, *a, **k)))
    state = init_state(config, tiny.both(), jax.random.key(0))
    after, metrics = jax.jit(lambda state, tasks: train_step(state, tasks, LANGUAGE, config=config))(state, marked)
    assert metrics["skipped"] == 0.25
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(after.params))


def test_spikes_are_found_as_numpy_finds_them():
    """Oracle: mean and deviation of a Python list in float64; planted spikes of either number, before and after the window is full."""
    rng = np.random.default_rng(0)
    sigmas, guard, kept, skipped = 4.0, init_guard(4.0), [], []
    step = jax.jit(lambda guard, pair: (is_sound(guard, *pair, sigmas), remember(guard, *pair)))
    for number in range(300):
        pair = rng.normal([0.1, 2.0], [0.01, 0.3]).astype(np.float32)
        if number in (5, 40, 41, 200):
            pair[number % 2] += 5.0
        window = np.array(kept[-WINDOW:], np.float64)
        bound = window.mean(axis=0) + sigmas * (window.std(axis=0) + 1e-4) if len(kept) >= 16 else np.inf
        sound, remembered = step(guard, pair)
        assert bool(sound) == bool(np.all(pair <= bound)), number
        if sound:
            guard = remembered
            kept.append(pair)
        else:
            skipped.append(number)
    assert {40, 41, 200} <= set(skipped)
    assert 5 not in skipped  # too early: there is nothing to compare with
    assert len(skipped) < 8
    assert int(guard.count) == len(kept)


def test_a_loss_of_nought_has_no_spikes():
    """Oracle: rounding of a loss that is 0 in arithmetic, however far from its own deviation."""
    guard = init_guard(6.0)
    for number in range(40):
        assert is_sound(guard, jnp.float32(1e-9 * (number % 3)), jnp.float32(0.5), 6.0)
        guard = remember(guard, jnp.float32(1e-9 * (number % 3)), jnp.float32(0.5))
    assert is_sound(guard, jnp.float32(1e-7), jnp.float32(0.5), 6.0)
    assert not is_sound(guard, jnp.float32(1e-7), jnp.float32(0.6), 6.0)


@pytest.mark.parametrize(("agent", "algorithm"), [("answerer", "ppo"), ("manager", "grpo")])
def test_a_sound_step_makes_no_nan_on_its_way(agent, algorithm):
    """Oracle: `jax.debug_nans`, which looks at every result; groups of equal rewards among the others."""
    rng = np.random.default_rng(2)
    config = replace(CONFIG, agent=agent, loss=LossConfig(algorithm=algorithm, kl_coef=0.01, entropy_coef=0.01))
    banks = [tiny.random_memories(rng) for _ in range(CONFIG.prompts_per_step)]
    if agent == "answerer":
        tasks = tiny.answer_tasks(banks, [(tiny.random_question(rng), "tea") for _ in banks])
    else:
        asked = [[(tiny.random_question(rng), "tea") for _ in range(number % 3)] for number in range(len(banks))]
        tasks = tiny.manager_tasks(banks, [tiny.random_said(rng) for _ in banks], asked)
    state = init_state(config, tiny.both(), jax.random.key(0))
    with jax.debug_nans(True):
        after, metrics = jax.jit(lambda state, tasks: train_step(state, tasks, LANGUAGE, config=config))(state, tasks)
        jax.block_until_ready(after)
    assert all(np.isfinite(value) for value in metrics.values())
    assert metrics["dead_groups"] > 0
