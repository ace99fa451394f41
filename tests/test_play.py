"""Several turns of the Manager in one program, against a loop on the host that carries each bank through one decision at a time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny import CONFIG, LANGUAGE, unoptimised  # noqa: F401

from mr1jax.agents import manager
from mr1jax.agents.play import greedy_reward, manager_rollout, play, replay
from mr1jax.agents.rollout import ask
from mr1jax.config import GREEDY, LossConfig, replace
from mr1jax.memory.bank import apply_operations
from mr1jax.model.transformer import prefill
from mr1jax.rl.algorithms import policy_loss
from mr1jax.rl.losses import LossBatch
from mr1jax.rl.sampling import score
from mr1jax.structs import Conversation, Generation, Trajectory
from mr1jax.update import loss_gradient, make_loss_batch

P, G, R, T = CONFIG.prompts_per_step, CONFIG.group_size, CONFIG.manager.response_length, 3
MANAGER = replace(CONFIG, agent="manager")
KEY = jax.random.key(5)
PARAMS = {"manager": tiny.params(0), "answerer": tiny.params(1, scale=3.0)}


@functools.cache
def played_tasks():
    """P random states with T later facts each; of some the conversation has ended before, and of one it has not begun."""
    rng = np.random.default_rng(8)
    memories, facts = [tiny.random_memories(rng) for _ in range(P)], [tiny.random_said(rng) for _ in range(P)]
    asked = [[(tiny.random_question(rng), "tea"), (tiny.random_question(rng), "jazz")] for _ in range(P)]
    tasks = tiny.manager_tasks(memories, facts, asked)
    later = tiny.stack([tiny.stack([tiny.fact(tiny.random_said(rng)) for _ in range(T)]) for _ in range(P)])
    later.length[1, 1:] = later.length[2, 2:] = tasks.fact.length[3] = later.length[3, 0] = 0
    return tasks.replace(later=later)


@functools.cache
def rollout_of(lead):
    config = replace(MANAGER, lead=lead)
    return jax.device_get(jax.jit(lambda tasks: manager_rollout(PARAMS, tasks, KEY, LANGUAGE, config))(played_tasks()))


def decisions_of(trajectory, p, g):
    """(prompt, its length, response, its length) of each decision of one member, in order."""
    prompts = [(trajectory.prompt[p], trajectory.prompt_length[p])]
    prompts += [(trajectory.own_prompt[p, t * G + g], trajectory.own_prompt_length[p, t * G + g]) for t in range(T)]
    responses = [(trajectory.generation.tokens[p, t * G + g], trajectory.generation.length[p, t * G + g]) for t in range(T + 1)]
    return [(*prompt, *response) for prompt, response in zip(prompts, responses, strict=True)]


def test_each_member_plays_on_in_its_own_bank():
    """Oracle: the loop. Each prompt is of the bank that the member's responses before it made; the last banks are what is asked about."""

    @jax.jit
    def decide(bank, fact, dates, tokens_R, length):
        view = manager.observe(bank, fact, dates, LANGUAGE, CONFIG.manager)
        operations = manager.act(view, fact, tokens_R, length, LANGUAGE, tiny.NUM_TERMS)
        return view.prompt, view.length, apply_operations(bank, operations, when_full=CONFIG.bank.when_full)[0]

    tasks, (trajectory, metrics) = played_tasks(), rollout_of(0)
    ends, num_said, num_different = {}, 0, 0
    for p, g in np.ndindex(P, G):
        bank, dates = tiny.at(tasks.bank, p), tiny.at(tasks.dates, p)
        facts = [tiny.at(tasks.fact, p), *(tiny.at(tasks.later, p, t) for t in range(T))]
        for fact, (prompt_L, prompt_length, tokens_R, length) in zip(facts, decisions_of(trajectory, p, g), strict=True):
            if not fact.length:
                assert length == 0
                continue
            wanted_L, wanted_length, after = decide(bank, fact, dates, tokens_R, length)
            np.testing.assert_array_equal(prompt_L[:prompt_length], wanted_L[:wanted_length])
            assert length > 0
            num_said += 1
            bank = after
        ends[p, g] = jax.device_get(bank)
        num_different += bool(np.any(ends[p, g].tokens != ends[p, 0].tokens))
    assert num_said == P * G * (T + 1) - 5 * G
    assert num_different > P
    bank_PG = tiny.stack([tiny.stack([ends[p, g] for g in range(G)]) for p in range(P)])
    reward_PG, _ = jax.jit(lambda bank: ask(PARAMS["answerer"], bank, tasks, KEY, LANGUAGE, CONFIG))(bank_PG)
    np.testing.assert_array_equal(trajectory.reward, reward_PG)
    assert np.ptp(reward_PG, axis=1).any()
    assert metrics["response_tokens"] == pytest.approx(np.sum(trajectory.generation.length) / (P * G))
    kinds = sum(float(metrics[f"share_{name}"]) for name in ("add", "update", "noop", "refused"))
    assert 1 <= kinds + float(metrics["share_delete"]) <= 2  # of what was said: a decision is one operation or two


def test_from_an_empty_bank_to_the_end_is_a_replay():
    """Oracle: `replay` of the same conversations: the far end of the horizon leaves the same banks and is paid by the same answers."""
    rng = np.random.default_rng(9)
    talks = [[tiny.random_said(rng) for _ in range(count)] for count in (T + 1, 2, T + 1, 1, 3, T + 1, 2, T + 1)]
    stacked: Conversation = tiny.stack([tiny.conversation(facts, T + 1) for facts in talks])
    tasks = tiny.manager_tasks([{}] * P, [facts[0] for facts in talks], [[(tiny.random_question(rng), "tea")] * 2] * P)
    later = tasks.fact.replace(
        tokens=stacked.fact_tokens[:, 1:],
        length=stacked.fact_length[:, 1:],
        speaker=stacked.fact_speaker[:, 1:],
        time=stacked.fact_time[:, 1:],
    )
    tasks = tasks.replace(later=later)

    @jax.jit
    def both(tasks, stacked):
        params, sizes = PARAMS["manager"], dict(group_size=1, sampling=GREEDY)
        trajectory, bank_P1, _ = play(params, tasks, KEY, LANGUAGE, MANAGER, **sizes)
        bank_P, _ = replay(params, stacked, KEY, LANGUAGE, MANAGER)
        asked, _ = ask(PARAMS["answerer"], jax.tree.map(lambda x: x[:, None], bank_P), tasks, KEY, LANGUAGE, MANAGER)
        return (bank_P1, greedy_reward(PARAMS, tasks, KEY, LANGUAGE, MANAGER)), (bank_P, asked[:, 0]), trajectory.generation.length

    (bank_P1, reward_P), (bank_P, wanted_P), length = jax.device_get(both(tasks, stacked))
    tiny.assert_equal(tiny.at(bank_P1, slice(None), 0), bank_P)
    np.testing.assert_array_equal(reward_P, wanted_P)
    assert np.sum(length > 0) == sum(map(len, talks))


def test_a_lead_is_played_and_not_learnt():
    """Oracle: the same turns without a lead: the same decisions and rewards, of which the loss keeps those from the compared turn on."""
    (plain, plain_metrics), (led, metrics), lead = rollout_of(0), rollout_of(2), 2
    np.testing.assert_array_equal(led.reward, plain.reward)
    np.testing.assert_array_equal(led.own_prompt, plain.own_prompt[:, (lead - 1) * G :])
    assert metrics["response_tokens"] == plain_metrics["response_tokens"]
    batch = make_loss_batch(led, None, LANGUAGE, replace(MANAGER, lead=lead))
    whole = make_loss_batch(plain, None, LANGUAGE, MANAGER)
    assert not np.any(batch.mask[:, :G])
    for got, wanted in ((batch.mask, whole.mask), (batch.advantage, whole.advantage)):
        np.testing.assert_array_equal(got[:, G:], wanted[:, lead * G :])


@pytest.mark.parametrize("num_microbatches", [1, 2])
def test_every_decision_is_learnt_by_its_members_advantage(num_microbatches):
    """Oracle: each decision a prompt and a group of its own, read alone; the advantage of its member in numpy, once for each of them."""
    trajectory, _ = rollout_of(0)
    reward_PG = np.asarray(trajectory.reward, np.float64)
    spread_P1 = reward_PG.std(axis=1, ddof=1, keepdims=True)
    advantage_PG = np.where(spread_P1 > 0, (reward_PG - reward_PG.mean(axis=1, keepdims=True)) / (spread_P1 + 1e-6), 0)
    rows = [(*row, advantage_PG[p, g]) for p, g in np.ndindex(P, G) for row in decisions_of(trajectory, p, g)]
    prompt_BL, prompt_length_B, tokens_BR, length_B, advantage_B = map(np.stack, zip(*rows, strict=True))
    order = [(p, t * G + g) for p, g in np.ndindex(P, G) for t in range(T + 1)]
    old_BR, state_BR = (np.stack([x[at] for at in order]) for x in (trajectory.generation.log_prob, trajectory.generation.state))
    mask_B1R = (np.arange(R) < length_B[:, None])[:, None]
    generation = Generation(*(x[:, None] for x in (tokens_BR, length_B, old_BR, state_BR, np.zeros_like(old_BR))))
    constant = LossBatch(old_BR[:, None], jnp.broadcast_to(advantage_B[:, None, None], mask_B1R.shape), mask_B1R, None, None)

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def apart(params):
        cache = prefill(CONFIG.model, params, prompt_BL, prompt_length_B)
        scores = score(CONFIG.model, params, cache, generation, grammar=LANGUAGE.manager, temperature=1.0, num_tokens=R)
        return policy_loss(scores.log_prob, scores.entropy, scores.value, constant, CONFIG.loss)

    config = replace(MANAGER, loss=LossConfig(num_microbatches=num_microbatches))

    @jax.jit
    def together(params):
        return loss_gradient(params, trajectory, make_loss_batch(trajectory, None, LANGUAGE, config), LANGUAGE, config)

    (wanted, wanted_metrics), (got, metrics) = apart(PARAMS["manager"]), together(PARAMS["manager"])
    assert metrics["ratio_gap"] < 1e-5
    for name in ("loss", "entropy"):
        np.testing.assert_allclose(metrics[name], wanted_metrics[name], rtol=1e-5, atol=1e-6)
    size = max(float(np.max(np.abs(leaf))) for leaf in jax.tree.leaves(wanted))
    assert size > 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * size), got, wanted)


def test_every_decision_is_worth_its_members_reward_under_ppo():
    """Oracle: by hand. With gamma and lambda 1 the target of every token is the reward of the member, at each of its decisions."""
    length = np.array([[2, 1, 0, 2], [1, 2, 2, 1]], np.int32)
    blank = np.zeros((2, 4, 2), np.float32)
    own = dict(own_prompt=np.zeros((2, 2, 1), np.int32), own_prompt_length=np.ones((2, 2), np.int32))
    trajectory = Trajectory(
        prompt=np.zeros((2, 1), np.int32),
        prompt_length=np.ones(2, np.int32),
        generation=Generation(blank.astype(np.int32), length, blank, blank.astype(np.int32), blank),
        reward=np.array([[0.25, 1.0], [0.5, 0.0]], np.float32),
        **own,
    )
    batch = make_loss_batch(trajectory, None, LANGUAGE, replace(MANAGER, loss=LossConfig(algorithm="ppo")))
    expected = [[[0.25, 0.25], [1, 0], [0, 0], [1, 1]], [[0.5, 0], [0, 0], [0.5, 0.5], [0, 0]]]
    np.testing.assert_array_equal(batch.target, expected)
