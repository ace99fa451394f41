"""Seconds of each part for one request, as in the paper's appendix G: a fact to the Manager, a search, a question to the Answer Agent.

Measured when the table is made, one request at a time, so nothing else should run then.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mr1jax.agents import answerer
from mr1jax.agents.rollout import answer, manage
from mr1jax.agents.tasks import answer_tasks, ask_at_end, manager_tasks, take
from mr1jax.config import GREEDY, replace
from mr1jax.data.datasets import read_split
from mr1jax.data.states import manager_states
from mr1jax.evaluate import append_only_banks
from mr1jax.prepare import Start, encode, load_start
from mr1jax.structs import PyTree
from paper.ablation import ALGORITHMS, agents
from paper.plan import DATA, SEEDS, Pair, Run, pair
from paper.table import Table

REQUESTS = 200
THEIRS = {
    "Memory Manager": {"Llama-3.1-8B": "p50 1.98 to 2.17 s, p95 about 3.4 to 3.6 s", "Qwen2.5-7B": "p50 under 1.4 s"},
    "search": {"Llama-3.1-8B": "p50 under 0.35 s, p95 under 0.65 s", "Qwen2.5-7B": "the same"},
    "Answer Agent, start": {"Llama-3.1-8B": "p50 0.65 s, p95 3.07 s", "Qwen2.5-7B": "p95 1.06 s"},
    "Answer Agent, PPO": {"Llama-3.1-8B": "p50 0.91 s, p95 4.67 s", "Qwen2.5-7B": "p95 2.60 s"},
    "Answer Agent, GRPO": {"Llama-3.1-8B": "p50 0.34 s, p95 0.67 s", "Qwen2.5-7B": "p95 0.83 s"},
}


def runs() -> list[Run]:
    return [agents(algorithm, SEEDS[0])[agent] for algorithm in ALGORITHMS for agent in ("manager", "answerer")]


def pairs() -> list[Pair]:
    return []


def make() -> Table:
    start = load_start(pair().config)
    facts, questions = _requests(start)
    search = jax.jit(jax.vmap(functools.partial(answerer.observe, language=start.language, config=start.config.answerer)))
    rows = {"search": measure(lambda task: search(task.bank, task.question, task.dates), questions)}
    for name in ("start", *ALGORITHMS):
        trained = load_start(pair(*_pair(name)).config).params
        title = name if name == "start" else name.upper()
        rows[f"Memory Manager, {title}"] = measure(_one(manage, trained["manager"], start), facts)
        rows[f"Answer Agent, {title}"] = measure(_one(answer, trained["answerer"], start), questions)
    return Table(
        name="latency",
        title="Latency",
        question="How long does one request take, in milliseconds?",
        rows=dict(sorted(rows.items())),
        theirs=THEIRS,
        theirs_are="with its serving stack and hardware not stated (arXiv 2508.19828, appendix G)",
        notes=(
            f"{REQUESTS} requests of the validation split, one after another, greedy, compiled before; an answer includes its search.",
            "A compiled response stops at its end token.",
        ),
    )


def _pair(name: str) -> list[Run]:
    return [] if name == "start" else [agents(name, SEEDS[0])[agent] for agent in ("manager", "answerer")]


def _requests(start: Start) -> tuple[Any, Any]:
    """Makes facts at banks, and questions to banks, of the validation split."""
    records = read_split("memdial", "validation", DATA)
    config = replace(start.config, agent="manager")
    conversations = encode(records, start)
    states = manager_states(records, config.bank.num_slots, config.questions_per_state, config.seed)
    banks = append_only_banks(conversations, start.language, config).banks
    return manager_tasks(states, conversations, start.language, config), answer_tasks(banks, conversations, ask_at_end(conversations))


def _one(rollout: Callable[..., Any], params: PyTree, start: Start) -> Callable[[Any], Any]:
    program = jax.jit(
        lambda params, task, language: (
            rollout(params, task, jax.random.key(0), language, start.config, group_size=1, sampling=GREEDY)[0].generation
        )
    )
    return lambda task: program(params, task, start.language)


def measure(request: Callable[[Any], Any], tasks: Any) -> dict[str, float]:
    """Times a request of one task, over and over: the median and the 95th percentile in milliseconds."""
    ones = [take(tasks, slice(n, n + 1)) for n in range(REQUESTS)]
    jax.block_until_ready(request(ones[0]))
    seconds = []
    for one in ones:
        started = time.perf_counter()
        jax.block_until_ready(request(one))
        seconds.append(time.perf_counter() - started)
    return {"p50 ms": 1000 * float(np.median(seconds)), "p95 ms": 1000 * float(np.quantile(seconds, 0.95))}
