"""The compiled step: what it does to the state, on one device and on eight, against what it should have done."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny import CONFIG, LANGUAGE, TOKENIZER, unoptimised  # noqa: F401

from mr1jax import update as update_module
from mr1jax.agents.rollout import AnswerTask, answer, answer_rollout
from mr1jax.config import GREEDY, Config, LossConfig, replace
from mr1jax.model.transformer import logical_axes
from mr1jax.rl.losses import LossBatch, ratio_gap
from mr1jax.rl.sampling import Scores
from mr1jax.sharding import make_mesh, state_sharding
from mr1jax.step import compile_train_step, draw_rollout, init_state, read_once, reads_once
from mr1jax.structs import Generation, Trajectory
from mr1jax.text.parsing import parse_answer
from mr1jax.update import make_loss_batch, run_update_once, run_updates, score_trajectory

P, G, R = CONFIG.prompts_per_step, CONFIG.group_size, CONFIG.answerer.response_length
MANAGER = replace(CONFIG, agent="manager")
BRANCH = replace(MANAGER, horizon=2)
PPO = replace(CONFIG, loss=LossConfig(algorithm="ppo", kl_coef=0.5, epochs=2, num_minibatches=2))


# ----------------------------------------------------------------------------------------------------------- programs and batches


@dataclasses.dataclass
class Program:
    """A configuration and its one compiled step."""

    config: Config

    def __post_init__(self):
        self.mesh = make_mesh(self.config.mesh)
        self.step = compile_train_step(self.config, self.mesh, self.start())

    def start(self, seed=0):
        """A state of the program's own: the step donates it."""
        params = jax.tree.map(np.array, start_params(self.config))
        state = init_state(self.config, params, jax.random.key(seed))
        return jax.device_put(state, state_sharding(state, logical_axes(params["manager"]), self.mesh))

    def run(self, state, *batches):
        """Steps through the batches. Returns the state and the metrics of each step as floats."""
        records = []
        for tasks in batches:
            state, metrics = self.step(state, tasks, LANGUAGE)
            records.append({name: float(value) for name, value in metrics.items()})
        return state, records


program = functools.cache(Program)


def start_params(config):
    """Random parameters. What the Manager is paid by is an Answer Agent that minds what it reads."""
    return tiny.both() if config.agent == "answerer" else tiny.both() | {"answerer": tiny.params(1, scale=3.0)}


@functools.cache
def rollout():
    """(params, tasks, key) to the trajectory of the Answer Agent, as the step draws it."""
    return jax.jit(lambda params, tasks, key: answer_rollout(params, tasks, key, LANGUAGE, CONFIG)[0])


@functools.cache
def scores():
    """(params, trajectory) of the Answer Agent to `Scores`."""
    return jax.jit(lambda params, trajectory: score_trajectory(params, trajectory, LANGUAGE, CONFIG))


@functools.cache
def reads_greedily():
    """(params, tasks) to the answers of the Answer Agent, read from its responses: tokens int32[P, R], lengths int32[P]."""

    def run(params, tasks):
        trajectory, _ = answer(params, tasks, jax.random.key(0), LANGUAGE, CONFIG, group_size=1, sampling=GREEDY)
        return jax.vmap(functools.partial(parse_answer, LANGUAGE.answerer))(
            trajectory.generation.tokens[:, 0], trajectory.generation.length[:, 0]
        )

    return jax.jit(run)


def first_key(seed=0):
    """The key of the rollout of a run's first step."""
    return jax.random.split(jax.random.fold_in(jax.random.key(seed), 0))[0]


def random_answer_tasks(seed, gold="tea"):
    rng = np.random.default_rng(seed)
    return tiny.answer_tasks([tiny.random_memories(rng) for _ in range(P)], [(tiny.random_question(rng), gold) for _ in range(P)])


def with_golds(question, golds):
    """The same questions with other gold answers, cut to what a gold answer may hold."""
    fitting = [gold.encode()[: tiny.ANSWER_WIDTH].decode() for gold in golds]
    new = tiny.stack([tiny.question("What", gold) for gold in fitting])
    return question.replace(answer=new.answer, answer_length=new.answer_length)


@functools.cache
def answer_tasks():
    """Tasks whose gold answer is what the first member of each group says in the first step: it is rewarded, most others are not."""
    tasks = random_answer_tasks(0)
    generation = jax.device_get(rollout()(tiny.both(), tasks, first_key()).generation)
    responses = [
        TOKENIZER.decode(tokens[: length - 1]) for tokens, length in zip(generation.tokens[:, 0], generation.length[:, 0], strict=True)
    ]
    return tasks.replace(question=with_golds(tasks.question, [text.split("**Answer:** ")[-1] for text in responses]))


@functools.cache
def manager_tasks():
    return tasks_that_pay(start_params(MANAGER)["answerer"])


def tasks_that_pay(answerer):
    """Tasks whose gold answers are what the Answer Agent says while the bank is as it was: what changes it may cost them."""
    rng = np.random.default_rng(1)
    memories, facts = [tiny.random_memories(rng) for _ in range(P)], [tiny.random_said(rng) for _ in range(P)]
    tasks = tiny.manager_tasks(memories, facts, [[(tiny.random_question(rng), "")] * 2 for _ in range(P)])
    asked = AnswerTask(tasks.bank, tiny.at(tasks.questions, slice(None), 0), tasks.dates)
    said = jax.device_get(reads_greedily()(answerer, asked))
    texts = [TOKENIZER.decode(tokens[:length]) for tokens, length in zip(said.tokens, said.length, strict=True)]
    question = with_golds(asked.question, texts)
    return tasks.replace(questions=jax.tree.map(lambda x: np.stack([x, x], axis=1), question))


def batches_of(config):
    """Three different batches for an agent, the first of them with rewards that vary."""
    if config.agent == "answerer":
        return [answer_tasks(), random_answer_tasks(1), random_answer_tasks(2)]
    first = manager_tasks()
    if config.horizon:  # the facts of other tasks, of which the last two have no more
        later = tiny.stack([tiny.at(first.fact, slice(None, None, -1)), first.fact])
        later = jax.tree.map(lambda x: x.swapaxes(0, 1).copy(), later)
        later.length[-2:, 1] = 0
        first = first.replace(later=later)
    return [first, tiny.at(first, slice(None, None, -1)), first.replace(fact=tiny.at(first.fact, slice(None, None, -1)))]


COMPILER_EVENTS = []  # what JAX traced, lowered or compiled
jax.monitoring.register_event_duration_secs_listener(lambda event, _, **__: COMPILER_EVENTS.append(event))


@functools.cache
def three_steps(config):
    """What three steps make of a fresh state: its parameters, the metrics, the state; and what was compiled after the first step."""
    state, (first, *others) = program(config).start(), batches_of(config)
    state, records = program(config).run(state, first)
    COMPILER_EVENTS.clear()
    state, more_records = program(config).run(state, *others)
    return jax.device_get(state.params), records + more_records, state, [event for event in COMPILER_EVENTS if "/compile/" in event]


EVERY = pytest.mark.parametrize("config", [CONFIG, MANAGER, BRANCH, PPO], ids=["answerer", "manager", "branch", "ppo"])


# ------------------------------------------------------------------------------------------------------------------ what a step is


@EVERY
def test_first_update_is_on_policy(config):
    """Oracle: the ratio of trainer and sampler is 1 where they are the same policy, in every step of one update."""
    _, records, *_ = three_steps(config)
    assert all(record["ratio_gap"] < 1e-5 for record in records)
    assert records[0]["dead_groups"] < 1  # and there was something to learn
    assert records[0]["grad_norm"] > 1e-3


def test_a_misalignment_of_one_token_shows():
    """Oracle: the same check, of a prompt that the trainer ends a token early, and of log-probabilities that are the next token's."""
    params = tiny.both()
    trajectory = rollout()(params, answer_tasks(), first_key())
    mask = jnp.arange(R)[None, None] < trajectory.generation.length[..., None]
    trained = scores()(params["answerer"], trajectory).log_prob
    early = scores()(params["answerer"], trajectory.replace(prompt_length=trajectory.prompt_length - 1)).log_prob
    assert ratio_gap(trained, trajectory.generation.log_prob, mask) < 1e-5
    assert ratio_gap(early, trajectory.generation.log_prob, mask) > 0.1
    assert ratio_gap(jnp.roll(trained, 1, axis=-1), trajectory.generation.log_prob, mask) > 0.1


@EVERY
def test_one_trace_serves_every_batch(config):
    """Oracle: what JAX reports of its compiler, of which nothing is needed for two batches that share only their shapes with the first."""
    *_, compiled = three_steps(config)
    assert compiled == []
    assert program(config).step._cache_size() == 1


@EVERY
def test_everything_is_finite(config):
    """Oracle: no NaN and no infinity, in the metrics and in the state; some banks are empty, some groups dead, some prompts short."""
    _, records, state, _ = three_steps(config)
    assert all(np.isfinite(value) for record in records for value in record.values())
    floats = [leaf for leaf in jax.tree.leaves((state.params, state.opt_state)) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert all(np.all(np.isfinite(leaf)) for leaf in floats)
    assert int(state.step) == 3


@EVERY
def test_only_the_trained_agent_changes(config):
    """Oracle: the parameters at the start. The frozen agent's are the same bits; of the other's every tree level has moved."""
    params, *_ = three_steps(config)
    start = start_params(config)
    frozen = "manager" if config.agent == "answerer" else "answerer"
    tiny.assert_equal(params[frozen], start[frozen])
    moved = jax.tree.map(lambda new, old: bool(np.any(new != old)), params[config.agent], start[config.agent])
    assert moved.pop("value_head") == (config.loss.algorithm == "ppo")
    assert jax.tree.all(moved)


def test_the_state_is_donated():
    """Oracle: the buffers of the state that went in are gone, so a step needs no second copy of it."""
    before = program(CONFIG).start()
    program(CONFIG).step(before, answer_tasks(), LANGUAGE)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))


def test_same_seed_same_bits_other_seed_other_samples():
    """Oracle: a second run from the same seed; and one from another, whose first responses differ."""
    first, records, *_ = three_steps(CONFIG)
    again, again_records = program(CONFIG).run(program(CONFIG).start(), *batches_of(CONFIG))
    tiny.assert_equal(jax.device_get(again.params), first)
    assert again_records == records
    _, (other, *_) = program(CONFIG).run(program(CONFIG).start(seed=1), *batches_of(CONFIG))
    assert other["entropy"] != records[0]["entropy"]


def test_each_step_draws_anew():
    """Oracle: two steps of the same batch and, since nothing is rewarded, the same parameters: still their samples differ."""
    _, (first, second) = program(CONFIG).run(program(CONFIG).start(), *[random_answer_tasks(0, gold="zzz")] * 2)
    assert first["grad_norm"] == second["grad_norm"] == 0
    assert first["entropy"] != second["entropy"]


# ------------------------------------------------------------------------------------------------------------- what a step is for


def response_log_prob(params, trajectory):
    """The log-probability of each response, [P, G]."""
    return np.sum(scores()(params, trajectory).log_prob, axis=-1)


def test_a_rewarded_response_becomes_likelier():
    """Oracle: its log-probability before and after one step in which it alone was rewarded, against those of its group."""
    tasks = answer_tasks()
    lone = with_golds(tasks.question, ["zzz"] * P)  # nobody earns anything...
    for name in ("answer", "answer_length"):
        getattr(lone, name)[0] = getattr(tasks.question, name)[0]  # ... but in the first group
    before = tiny.both()
    trajectory = rollout()(before, tasks.replace(question=lone), first_key())
    reward_PG = np.asarray(trajectory.reward)
    assert 0 < np.sum(reward_PG[0]) < G
    assert not np.any(reward_PG[1:])
    state, (metrics,) = program(CONFIG).run(program(CONFIG).start(), tasks.replace(question=lone))
    assert metrics["dead_groups"] == (P - 1) / P
    assert metrics["reward"] == np.mean(reward_PG)
    gain_G = (response_log_prob(state.params["answerer"], trajectory) - response_log_prob(before["answerer"], trajectory))[0]
    assert np.all(gain_G[reward_PG[0] == 1] > 0)
    assert np.mean(gain_G[reward_PG[0] == 0]) < np.mean(gain_G[reward_PG[0] == 1])


def test_dead_groups_teach_nothing():
    """Oracle: the parameters at the start, bit for bit, after a step in which every member of every group earned the same."""
    state, (metrics,) = program(CONFIG).run(program(CONFIG).start(), random_answer_tasks(0, gold="zzz"))
    assert (metrics["reward"], metrics["dead_groups"], metrics["grad_norm"]) == (0, 1, 0)
    tiny.assert_equal(state.params, tiny.both())


def test_ppo_draws_the_values_to_the_returns():
    """Oracle: with gamma and lambda 1 the return of every token is the reward; the head starts at 0 and has to come nearer."""
    trajectory = rollout()(tiny.both(), answer_tasks(), first_key())
    mask_PGR = np.arange(R) < np.asarray(trajectory.generation.length)[..., None]

    def error(params):
        value_PGR = np.asarray(scores()(params, trajectory).value)
        return np.mean(np.square(value_PGR - np.asarray(trajectory.reward)[..., None])[mask_PGR])

    state, (metrics,) = program(PPO).run(program(PPO).start(), answer_tasks())
    start = error(tiny.both()["answerer"])
    assert start == pytest.approx(np.mean(np.square(trajectory.reward)[..., None].repeat(R, -1)[mask_PGR]))
    assert error(state.params["answerer"]) < 0.9 * start
    assert metrics["value_loss"] <= start / 2


def test_kl_pulls_towards_the_reference():
    """Oracle: the distance to the reference's log-probabilities, before and after steps in which nothing else pulls."""
    tasks, ppo = random_answer_tasks(0, gold="zzz"), program(PPO)
    other = jax.tree.map(lambda x: np.array(x) * np.float32(1.3), tiny.both()["answerer"])
    state = ppo.start()
    state = state.replace(reference=jax.device_put(other, jax.tree.map(lambda x: x.sharding, state.reference)))
    trajectory = rollout()(tiny.both(), tasks, first_key())
    wanted = scores()(other, trajectory).log_prob

    def distance(params):
        return float(jnp.mean(jnp.square(scores()(params, trajectory).log_prob - wanted)))

    state, records = ppo.run(state, tasks, tasks)
    assert distance(state.params["answerer"]) < 0.8 * distance(tiny.both()["answerer"])
    assert records[0]["kl"] > 1e-3
    tiny.assert_equal(state.reference, other)


def test_prompts_read_once_give_what_prompts_read_again_give():
    """Oracle: the rollout and `run_updates`, each with a prompt pass of its own: responses bit for bit, moments of Adam to rounding."""

    @jax.jit
    def both_ways(state, tasks, key):
        reading, pull_back = read_once(state, tasks, LANGUAGE, CONFIG)
        trajectory, _ = draw_rollout(state.params, tasks, key, LANGUAGE, CONFIG, reading)
        again, _ = draw_rollout(state.params, tasks, key, LANGUAGE, CONFIG)
        batch = make_loss_batch(again, tiny.params(1), LANGUAGE, CONFIG)
        once, of_once = run_update_once(state, reading.cache, pull_back, trajectory, batch, LANGUAGE, CONFIG)
        updated, of_updates = run_updates(state, again, batch, key, LANGUAGE, CONFIG)
        return (trajectory, once[1], of_once["grad_norm"]), (again, updated[1], of_updates["grad_norm"])

    once, again = jax.device_get(both_ways(program(CONFIG).start(), answer_tasks(), first_key()))
    assert np.ptp(once[0].reward, axis=1).any()
    tiny.assert_equal(once[0], again[0])
    for got, want in zip(jax.tree.leaves(once[1:]), jax.tree.leaves(again[1:]), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("part", ["epochs", "num_minibatches", "num_microbatches"])
def test_prompts_are_read_again_where_a_part_of_the_loss_waits(part):
    """Oracle: with parts, parameters or memory would be others by the time their turn comes."""
    assert reads_once(CONFIG)
    assert not reads_once(replace(CONFIG, loss=replace(CONFIG.loss, **{part: 2})))
    assert not reads_once(replace(CONFIG, rollout_microbatches=2))


def test_no_kl_no_reference_pass():
    """Oracle: the matrix products in the program that prepares the loss: none without a reference, some with one."""
    trajectory = rollout()(tiny.both(), answer_tasks(), first_key())
    assert program(CONFIG).start().reference is None
    prepare = jax.jit(lambda trajectory, reference: make_loss_batch(trajectory, reference, LANGUAGE, CONFIG))
    assert "dot_general" not in prepare.lower(trajectory, None).as_text()
    assert "dot_general" in prepare.lower(trajectory, tiny.both()["answerer"]).as_text()


def test_each_epoch_uses_every_prompt_once(monkeypatch):
    """Oracle: the numbers 0 to 7, which prompts and advantages carry into an update that only writes down what it was given."""
    number_P = jnp.arange(P, dtype=jnp.float32)
    number_PGR = jnp.broadcast_to(number_P[:, None, None], (P, G, R))
    trajectory = Trajectory(
        prompt=jnp.zeros((P, 4), jnp.int32),
        prompt_length=number_P.astype(jnp.int32),
        generation=Generation(**{field.name: number_PGR for field in dataclasses.fields(Generation)}),
        reward=number_PGR[..., 0],
    )
    batch = LossBatch(number_PGR, number_PGR, jnp.ones((P, G, R), bool), number_PGR, number_PGR, None)

    def written_down(_, part, *__):
        group_pGR = jnp.broadcast_to(part.prompt_length[:, None, None].astype(jnp.float32), part.generation.tokens.shape)
        return Scores(group_pGR, group_pGR, group_pGR)

    def loss(log_prob, _, __, part, ___):
        assert log_prob.shape == (P // 2, G, R)  # whole groups
        numbers = {"prompt": log_prob[:, 0, 0], "advantage": jnp.max(part.advantage, axis=(1, 2)), "loss": jnp.float32(0)}
        return jnp.float32(0), numbers | {"clip_fraction": jnp.float32(0), "ratio_gap": jnp.float32(0)}

    monkeypatch.setattr(update_module, "score_trajectory", written_down)
    monkeypatch.setattr(update_module, "policy_loss", loss)
    state = program(PPO).start()
    run = jax.jit(lambda state, key: run_updates(state, trajectory, batch, key, LANGUAGE, PPO))
    _, seen = run(state, jax.random.key(0))
    assert seen["prompt"].shape == (4, P // 2)
    np.testing.assert_array_equal(seen["prompt"], seen["advantage"])
    first, second = np.asarray(seen["prompt"]).reshape(2, P)
    assert sorted(first) == sorted(second) == list(range(P))
    assert first.tolist() != second.tolist()


def test_a_run_learns_what_pays():
    """Oracle: chance. One fact, one question: random parameters know neither the form nor the fact; a constant reward is not enough."""
    tasks = tiny.answer_tasks([{0: tiny.Said("Mia likes tea")}] * P, [("What Mia likes?", "tea")] * P)
    _, records = program(CONFIG).run(program(CONFIG).start(), *[tasks] * 100)
    rewards = np.array([record["reward"] for record in records])
    assert np.mean(rewards[:5]) < 0.3
    assert np.mean(rewards[-10:]) > 0.9
