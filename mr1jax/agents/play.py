"""What the Manager does over several turns: a group that branches at one bank and is rewarded at once or later, and whole conversations.

How far the reward is from the operation that it judges is one axis. At one end a group branches, and each bank is asked about at once: no
decision but the compared ones moves the reward. At the other every member plays a whole conversation from an empty bank, and all that it
decided shares one reward (Memory-R1, arXiv 2508.19828, algorithm 5). `later` of a `ManagerTask` says how many turns are in between.

The turns after the branch are sampled, by the policy that trains, and are learnt from like the branch itself: so what an operation is worth
is what it is worth to this policy, and the far end is the paper's own. Each leads to states of its own, and its advantage there is of the
whole trajectory: the credit of one decision grows less certain with every turn.
"""

import jax
import jax.numpy as jnp

from mr1jax.agents.manager import NewFact
from mr1jax.agents.prompts import Dates, Language
from mr1jax.agents.rollout import AnswerTask, ManagerTask, Metrics, Params, Reading, answer, ask, manage
from mr1jax.config import GREEDY, Config, SamplingConfig, replace
from mr1jax.memory.bank import fill, init_bank
from mr1jax.model.lora import agent_params
from mr1jax.sharding import constrain_batch
from mr1jax.structs import Array, Conversation, MemoryBank, PyTree, Trajectory


def manager_rollout(
    params: Params, tasks: ManagerTask, key: Array, language: Language, config: Config, reading: Reading | None = None
) -> tuple[Trajectory, Metrics]:
    """One training rollout of the Manager: P facts, G operations each from the same bank.

    The reward of an operation is the share of the task's questions that the frozen Answer Agent, reading greedily the bank the operation
    left, gets exactly right (eq. 4 of the paper, averaged over the questions linked to the state). Where a task has later facts, that is
    the bank which they have left too, and all of a member's decisions share this one reward; with later facts to the end of a conversation
    and an empty bank to start from, that is the paper's algorithm 5.
    """
    own = agent_params(params, "manager", config.lora)
    trajectory, bank_PG, metrics = play(
        own, tasks, key, language, config, group_size=config.group_size, sampling=config.sampling, reading=reading
    )
    with jax.named_scope("reward"):
        reward_PG, share_read = ask(agent_params(params, "answerer", config.lora), bank_PG, tasks, key, language, config)
    metrics |= {
        "reward": jnp.mean(reward_PG),
        "bank_fill": jnp.mean(jax.vmap(jax.vmap(fill))(bank_PG)),
        "prompts_read": share_read,
    }
    return replace(trajectory, reward=reward_PG), metrics


def greedy_reward(params: Params, tasks: AnswerTask | ManagerTask, key: Array, language: Language, config: Config) -> Array:
    """Rewards what the trained agent does with P tasks when it takes the likeliest token each time: float32[P]. The key draws nothing."""
    own = agent_params(params, config.agent, config.lora)
    if isinstance(tasks, AnswerTask):
        trajectory, _ = answer(own, tasks, key, language, config, group_size=1, sampling=GREEDY)
        return trajectory.reward[:, 0]
    _, bank_P1, _ = play(own, tasks, key, language, config, group_size=1, sampling=GREEDY)
    reward_P1, _ = ask(agent_params(params, "answerer", config.lora), bank_P1, tasks, key, language, config)
    return reward_P1[:, 0]


def play(
    params: PyTree,
    tasks: ManagerTask,
    key: Array,
    language: Language,
    config: Config,
    *,
    group_size: int,
    sampling: SamplingConfig,
    reading: Reading | None = None,
) -> tuple[Trajectory, MemoryBank, Metrics]:
    """Lets the Manager treat P facts G times each from the same bank, and then the later facts of its task at each of the P x G banks.

    Later decisions are drawn as the first is, by the same policy, and are further decisions of the same trajectory: all of them lead to its
    reward, and all are learnt from. Not so the first `config.lead`: these are how each member comes to a bank of its own. Of them the
    trajectory keeps but the first, which is what its shared prompt was answered with.

    Returns the trajectory, with no reward yet; the P x G banks at the end; and for the log the share of each kind of operation among all
    decisions, and how many tokens a member wrote.
    """
    first_key, later_key = jax.random.split(key)
    trajectory, bank_PG, counts_PG = manage(
        params, tasks, first_key, language, config, group_size=group_size, sampling=sampling, reading=reading
    )
    num_turns_P, tokens_PG = jnp.sum(tasks.fact.length[:, None] > 0, axis=1), trajectory.generation.length
    if tasks.later is not None:
        bank_PG, later, later_counts_PG = _play_on(params, bank_PG, tasks, later_key, language, config, sampling)
        num_turns_P += jnp.sum(tasks.later.length > 0, axis=1)
        counts_PG = jax.tree.map(jnp.add, counts_PG, later_counts_PG)
        tokens_PG += jnp.sum(later.generation.length.reshape(len(num_turns_P), -1, group_size), axis=1)
        trajectory = _append(trajectory, jax.tree.map(lambda x: x[:, max(0, config.lead - 1) * group_size :], later))
    # A share for the log, whatever the batch: how often each kind is chosen.
    shares = {f"share_{name}": jnp.mean(count_PG) / jnp.mean(num_turns_P, dtype=jnp.float32) for name, count_PG in counts_PG.items()}
    return trajectory, bank_PG, shares | {"response_tokens": jnp.mean(tokens_PG, dtype=jnp.float32)}


def _play_on(
    params: PyTree,
    bank_PG: MemoryBank,
    tasks: ManagerTask,
    key: Array,
    language: Language,
    config: Config,
    sampling: SamplingConfig,
) -> tuple[MemoryBank, Trajectory, Metrics]:
    """Lets the Manager treat the T later facts of each task at each of P x G banks, one after another.

    Returns the banks at the end; all decisions, leaves [P, T * G, ...] with the members of the first turn first; what each member did in
    all turns, float32[P, G] a kind.
    """
    P, G = bank_PG.clock.shape

    def each(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda x: jnp.repeat(x, G, axis=0), tree)

    def turn(bank_B: MemoryBank, fact_and_key: tuple[NewFact, Array]) -> tuple[MemoryBank, tuple[Trajectory, Metrics]]:
        fact_P, key = fact_and_key
        own = ManagerTask(bank=bank_B, fact=each(fact_P), questions=None, asked=None, dates=each(tasks.dates))
        decision, bank_B1, counts_B1 = manage(params, constrain_batch(own), key, language, config, group_size=1, sampling=sampling)
        decision = replace(decision, generation=jax.tree.map(lambda x: x[:, 0], decision.generation), reward=decision.reward[:, 0])
        return jax.tree.map(lambda x: x[:, 0], bank_B1), (decision, counts_B1)

    facts_T = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), tasks.later)
    keys_T = jax.random.split(key, facts_T.length.shape[0])
    bank_B = jax.tree.map(lambda x: x.reshape(P * G, *x.shape[2:]), bank_PG)
    bank_B, (decisions, counts) = jax.lax.scan(turn, bank_B, (facts_T, keys_T))
    decisions = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, P, G, *x.shape[2:]), 0, 1).reshape(P, -1, *x.shape[2:]), decisions)
    bank_PG = jax.tree.map(lambda x: x.reshape(P, G, *x.shape[1:]), bank_B)
    return bank_PG, decisions, {name: jnp.sum(count, axis=0).reshape(P, G) for name, count in counts.items()}


def _append(first: Trajectory, later: Trajectory) -> Trajectory:
    """Puts decisions in states of their own, leaves [P, H, ...], behind those at shared prompts, [P, G, ...]."""
    generation = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), first.generation, later.generation)
    return replace(first, generation=generation, own_prompt=later.prompt, own_prompt_length=later.prompt_length)


def replay(
    params: PyTree, conversations: Conversation, key: Array, language: Language, config: Config, *, sampling: SamplingConfig = GREEDY
) -> tuple[MemoryBank, Metrics]:
    """Plays every fact of C conversations through the Manager, in order, from an empty bank: `lax.scan` over facts, batched over C.

    Returns the banks at the end, leading axis C, and float32 counts of operations over all facts.
    """
    num_conversations, num_facts = conversations.fact_length.shape
    empty = jax.tree.map(lambda x: jnp.broadcast_to(x[None], (num_conversations, *x.shape)), init_bank(config.bank))

    def turn(bank_C, t):
        bank_C, counts_C = decide(params, bank_C, conversations, t, jax.random.fold_in(key, t), language, config, sampling=sampling)
        return bank_C, jax.tree.map(jnp.sum, counts_C)

    bank_C, counts_T = jax.lax.scan(turn, empty, jnp.arange(num_facts))
    return bank_C, jax.tree.map(jnp.sum, counts_T)


def decide(
    params: PyTree,
    bank_C: MemoryBank,
    conversations: Conversation,
    t: Array,
    key: Array,
    language: Language,
    config: Config,
    *,
    sampling: SamplingConfig = GREEDY,
) -> tuple[MemoryBank, Metrics]:
    """Lets the Manager treat fact t of each of C conversations, whose banks these are; where there is no such fact nothing happens.

    Returns the banks after it, and what each decision did, float32[C] a kind.
    """
    dates = Dates(conversations.date_tokens, conversations.date_length)
    tasks = ManagerTask(bank=bank_C, fact=fact_at(conversations, t), questions=None, asked=None, dates=dates)
    _, bank_C1, counts_C1 = manage(params, tasks, key, language, config, group_size=1, sampling=sampling)
    return jax.tree.map(lambda x: x[:, 0], (bank_C1, counts_C1))


def fact_at(conversations: Conversation, t: Array) -> NewFact:
    """Reads fact t of each of C conversations."""
    return NewFact(
        tokens=conversations.fact_tokens[:, t],
        length=conversations.fact_length[:, t],
        speaker=conversations.fact_speaker[:, t],
        time=conversations.fact_time[:, t],
    )
