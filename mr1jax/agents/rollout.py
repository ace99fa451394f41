"""Episodes of both agents as pure functions of (params, tasks, key): prompts, responses, what they do, and the reward of each.

A task is the state of one prompt. The G members of a group start from one and the same bank: the Answer Agent's responses leave it as it
is, the Manager's each turn a copy of it into another bank, which the frozen Answer Agent is then asked about. What the Manager does over
several turns is in `play`.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import struct

from mr1jax.agents import answerer, manager
from mr1jax.agents.answerer import AnswerView, AskedQuestion
from mr1jax.agents.manager import ManagerView, NewFact
from mr1jax.agents.prompts import Dates, Language
from mr1jax.config import GREEDY, AgentConfig, Config, SamplingConfig
from mr1jax.memory.bank import apply_operations
from mr1jax.model.lora import agent_params
from mr1jax.model.transformer import Cache, prefill
from mr1jax.rl.masked import masked_mean
from mr1jax.rl.sampling import generate
from mr1jax.sharding import constrain_batch
from mr1jax.structs import PAD, Array, Generation, MemoryBank, OperationKind, OperationStatus, PyTree, Trajectory
from mr1jax.text.grammar import Grammar

Params = dict[str, PyTree]  # {"manager": tree, "answerer": tree}, or with LoRA {"base": tree} and an adapter of each
Metrics = dict[str, Array]


@struct.dataclass
class AnswerTask:
    """A question to a bank."""

    bank: MemoryBank
    question: AskedQuestion
    dates: Dates


@struct.dataclass
class ManagerTask:
    """A fact that arrives at a bank, and Q questions that can be asked after it. asked: bool[Q], False where there is no question.

    later: the facts that come after it, before anything is asked, a leading axis of turns; None where there are none. A fact of length 0 is
    not said.
    """

    bank: MemoryBank
    fact: NewFact
    questions: AskedQuestion
    asked: Array
    dates: Dates
    later: NewFact | None = None


@struct.dataclass
class Reading:
    """What an agent is shown of P tasks, and what it made of the prompts."""

    view: AnswerView | ManagerView
    cache: Cache


def read(params: PyTree, tasks: AnswerTask | ManagerTask, language: Language, config: Config) -> Reading:
    """Shows each of P tasks to the agent that treats it, whose parameters these are, and lets it read the prompts."""
    view: AnswerView | ManagerView
    if isinstance(tasks, AnswerTask):
        of_answerer = partial(answerer.observe, language=language, config=config.answerer)
        view = jax.vmap(of_answerer)(tasks.bank, tasks.question, tasks.dates)
    else:
        of_manager = partial(manager.observe, language=language, config=config.manager)
        view = jax.vmap(of_manager)(tasks.bank, tasks.fact, tasks.dates)
    return Reading(view, _prefill(params, view.prompt, view.length, config))


def _prefill(params: PyTree, prompt_PL: Array, length_P: Array, config: Config) -> Cache:
    with jax.named_scope("prefill"):
        return prefill(config.model, params, prompt_PL, length_P)


def respond(
    params: PyTree,
    cache: Cache,
    key: Array,
    grammar: Grammar,
    language: Language,
    agent: AgentConfig,
    config: Config,
    *,
    group_size: int,
    sampling: SamplingConfig,
    asked: Array | None = None,
) -> Generation:
    """Draws `group_size` responses of one agent to each of P prompts that it has read; consumes the key. asked: as in `generate`."""
    return generate(
        config.model,
        params,
        cache,
        key,
        group_size=group_size,
        num_tokens=agent.response_length,
        grammar=grammar,
        eos_id=language.eos_id,
        sampling=sampling,
        asked=asked,
    )


def answer(
    params: PyTree,
    tasks: AnswerTask,
    key: Array,
    language: Language,
    config: Config,
    *,
    group_size: int,
    sampling: SamplingConfig,
    reading: Reading | None = None,
) -> tuple[Trajectory, Metrics]:
    """Answers P questions G times each; the reward is exact match. reading: of these tasks by these parameters, where it is there."""
    reading = reading or read(params, tasks, language, config)
    view, cache = reading.view, reading.cache
    generation = respond(params, cache, key, language.answerer, language, config.answerer, config, group_size=group_size, sampling=sampling)
    of_group = jax.vmap(
        lambda tokens_R, length, question: answerer.reward(tokens_R, length, question, language, config.reward), (0, 0, None)
    )
    with jax.named_scope("reward"):
        reward_PG = jax.vmap(of_group)(generation.tokens, generation.length, tasks.question)
    metrics = {"reward": jnp.mean(reward_PG), "response_tokens": jnp.mean(generation.length, dtype=jnp.float32)}
    return Trajectory(prompt=view.prompt, prompt_length=view.length, generation=generation, reward=reward_PG), metrics


def manage(
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
    """Lets the Manager treat P facts G times each, every time from the same bank. reading: as in `answer`.

    Where a fact was not said nothing is decided: the bank is what it was, the response of no length, and it counts as no kind.
    Returns the trajectory, with no reward yet; the P x G banks that result; and what each decision did, float32[P, G] a kind.
    """
    num_terms, when_full = config.bank.num_terms, config.bank.when_full
    reading = reading or read(params, tasks, language, config)
    view, cache = reading.view, reading.cache
    is_said_P = tasks.fact.length > 0
    generation = respond(
        params,
        cache,
        key,
        language.manager,
        language,
        config.manager,
        config,
        group_size=group_size,
        sampling=sampling,
        asked=is_said_P,
    )

    def branch(bank, view, fact, tokens_R, length):
        operations = manager.act(view, fact, tokens_R, length, language, num_terms)
        after, status = apply_operations(bank, operations, when_full=when_full)
        return after, operations.kind, status

    of_group = jax.vmap(branch, in_axes=(None, None, None, 0, 0))
    bank_PG, kind_PG2, status_PG2 = jax.vmap(of_group)(tasks.bank, view, tasks.fact, generation.tokens, generation.length)
    said_P1 = is_said_P[:, None]
    before_P1 = jax.tree.map(lambda x: x[:, None], tasks.bank)
    bank_PG = jax.tree.map(lambda new, old: jnp.where(said_P1.reshape(-1, *[1] * (new.ndim - 1)), new, old), bank_PG, before_P1)
    counts_PG = {name: jnp.where(said_P1, count, 0.0) for name, count in count_operations(kind_PG2, status_PG2).items()}
    trajectory = Trajectory(prompt=view.prompt, prompt_length=view.length, generation=generation, reward=jnp.zeros(generation.length.shape))
    return trajectory, bank_PG, counts_PG


def count_operations(kind: Array, status: Array) -> Metrics:
    """Counts what each decision did, by kind: kind, status int32[..., MAX_OPERATIONS] to float32[...].

    A decision that did nothing at all counts as one NOOP. Refused operations count apart, by no kind.
    """
    applied = status == OperationStatus.APPLIED
    counts = {
        name.lower(): jnp.sum(applied & (kind == value), axis=-1, dtype=jnp.float32)
        for name, value in OperationKind.__members__.items()
        if value != OperationKind.NOOP
    }
    idle = jnp.all(kind == OperationKind.NOOP, axis=-1)
    return counts | {"noop": idle.astype(jnp.float32), "refused": jnp.sum(~applied, axis=-1, dtype=jnp.float32)}


def answer_rollout(
    params: Params, tasks: AnswerTask, key: Array, language: Language, config: Config, reading: Reading | None = None
) -> tuple[Trajectory, Metrics]:
    """One training rollout of the Answer Agent: P questions, G answers each, reward 1 for an exact match (eq. 4 of the paper)."""
    own = agent_params(params, "answerer", config.lora)
    return answer(own, tasks, key, language, config, group_size=config.group_size, sampling=config.sampling, reading=reading)


def ask(params: PyTree, bank_PG: MemoryBank, tasks: ManagerTask, key: Array, language: Language, config: Config) -> tuple[Array, Array]:
    """Asks each of P x G banks the Q questions of its task, every different prompt once.

    What the members of a group did to their banks is often the same, or not among what is shown, and a greedy answer depends on its
    prompt alone: a member whose prompt equals that of one before it has that one's reward.

    Returns (float32[P, G], the share answered exactly right; float32[], the share of the prompts that was read).
    """
    P, G = bank_PG.clock.shape
    Q = tasks.asked.shape[1]
    see = partial(answerer.observe, language=language, config=config.answerer)
    for axes in ((0, None, None), (None, 0, None), (0, 0, 0)):  # over members, questions, tasks
        see = jax.vmap(see, axes)
    view = see(bank_PG, tasks.questions, tasks.dates)
    first_PQG = _first_alike(view.prompt, view.length)
    asked_PQG = jnp.broadcast_to(tasks.asked[..., None], (P, Q, G))
    is_read_PQG = asked_PQG & (first_PQG == jnp.arange(G)[None, None])

    def grade(rows: tuple[Array, Array, AskedQuestion, Array]) -> Array:
        prompt_BL, length_B, question_B, is_read_B = rows
        cache = _prefill(params, prompt_BL, length_B, config)
        generation = respond(
            params,
            cache,
            key,
            language.answerer,
            language,
            config.answerer,
            config,
            group_size=1,
            sampling=GREEDY,
            asked=is_read_B,
        )
        return jax.vmap(partial(answerer.reward, language=language, kind=config.reward))(
            generation.tokens[:, 0], generation.length[:, 0], question_B
        )

    question_PQG = jax.tree.map(lambda x: jnp.broadcast_to(x[:, :, None], (P, Q, G, *x.shape[2:])), tasks.questions)
    reward_PQG = _map_where(is_read_PQG, grade, (view.prompt, view.length, question_PQG, is_read_PQG))
    reward_PQG = jnp.take_along_axis(reward_PQG, first_PQG, axis=2)
    return masked_mean(reward_PQG, asked_PQG, axis=1), jnp.sum(is_read_PQG) / jnp.maximum(jnp.sum(asked_PQG), 1)


def _first_alike(prompt_PQGL: Array, length_PQG: Array) -> Array:
    """Finds for each member the first of its group, itself included, that has the same prompt: int32[P, Q, G]."""
    is_token = jnp.arange(prompt_PQGL.shape[-1])[None, None, None] < length_PQG[..., None]
    prompt_PQGL = jnp.where(is_token, prompt_PQGL, PAD)  # so that equal rows are equal prompts: PAD is in none
    return jnp.argmax(jnp.all(prompt_PQGL[:, :, :, None] == prompt_PQGL[:, :, None], axis=-1), axis=-1)


def _map_where(needed_PQG: Array, function: Callable[[PyTree], Array], rows: PyTree) -> Array:
    """Maps a function of a batch over the rows that are needed, float32[P, Q, G], 0 for all others.

    They are taken P x Q at a time, the needed ones first, and once those are done nothing more is computed. rows: leaves [P, Q, G, ...].
    """
    P, Q, G = needed_PQG.shape
    flat = jax.tree.map(lambda x: x.reshape(P * Q * G, *x.shape[3:]), rows)
    order_GB = jnp.argsort(~needed_PQG.reshape(-1), stable=True).reshape(G, P * Q)
    num_blocks = -(-jnp.sum(needed_PQG) // (P * Q))

    def turn(result: Array, block: tuple[Array, Array]) -> tuple[Array, None]:
        k, index_B = block

        def put(result: Array) -> Array:
            return result.at[index_B].set(function(constrain_batch(jax.tree.map(lambda x: x[index_B], flat))))

        return jax.lax.cond(k < num_blocks, put, lambda result: result, result), None

    result, _ = jax.lax.scan(turn, jnp.zeros(P * Q * G), (jnp.arange(G), order_GB))
    return jnp.where(needed_PQG, result.reshape(P, Q, G), 0.0)
