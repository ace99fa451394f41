"""What a Manager's step saves by what its group shares: the Manager's prompt, and answers to prompts that are the same.

    python -m bench.manager

Beside it runs the same step on groups of one, each task there as often as a group has members: every prompt is then read for itself, in
all passes. Groups of one have no GRPO, so both are PPO.
"""

import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from mr1jax.agents.rollout import ManagerTask, ask, manage
from mr1jax.agents.tasks import take
from mr1jax.cli import load_experiment
from mr1jax.config import Config, replace
from mr1jax.data.loader import make_loader
from mr1jax.data.memdial.world import conversations
from mr1jax.model.transformer import logical_axes
from mr1jax.prepare import Start, load_start, make_tasks
from mr1jax.sharding import make_mesh, state_sharding
from mr1jax.step import compile_train_step, init_state
from mr1jax.structs import Array, MemoryBank, PyTree

BATCHES = 12


def measure() -> dict[str, float]:
    """Times the demo's Manager both ways, batch after batch: the whole step, and the reward of what the warm start does."""
    start = load_start(load_experiment("demo").manager())
    shared = replace(start.config, loss=replace(start.config.loss, algorithm="ppo"))
    size = shared.group_size
    single = replace(shared, prompts_per_step=shared.prompts_per_step * size, group_size=1)
    tasks = make_tasks(list(conversations("train", 1, 32)), start)
    loader = make_loader(range(len(jax.tree.leaves(tasks)[0])), lambda i: take(tasks, i), batch_size=shared.prompts_per_step, seed=0)
    steps, rewards, act = [_Step(start, config) for config in (shared, single)], _reward(start), _act(start)
    rows = []
    for number in range(BATCHES):
        batch = next(loader)
        repeated = jax.tree.map(lambda x: jnp.repeat(x, size, axis=0), batch)
        bank_PG = act(start.params["manager"], batch, jax.random.key(number))
        alone_PG1 = jax.tree.map(lambda x: x.reshape(-1, 1, *x.shape[2:]), bank_PG)
        step_s, _ = _timed(steps[0], batch)
        single_s, _ = _timed(steps[1], repeated)
        ask_s, (reward_PG, share_read) = _timed(rewards, start.params["answerer"], bank_PG, batch)
        alone_s, (alone, _) = _timed(rewards, start.params["answerer"], alone_PG1, repeated)
        if not jnp.array_equal(alone.reshape(reward_PG.shape), reward_PG):
            raise AssertionError("what is shared was paid differently from what is not")
        rows.append((step_s, single_s, single_s / step_s, ask_s, alone_s, alone_s / ask_s, float(share_read)))
    names = ("step_s", "step_of_singles_s", "step_ratio", "reward_s", "reward_of_singles_s", "reward_ratio", "prompts_read")
    row = {name: statistics.median(column) for name, column in zip(names, zip(*rows[1:], strict=True), strict=True)}
    of = f"{shared.prompts_per_step} tasks x {size}"
    print(f"Manager's step, {of}: {row['step_s']:.2f} s; {row['step_ratio']:.1f} times that with nothing shared")
    print(f"its reward: {row['reward_s']:.2f} s, {row['prompts_read']:.0%} of the prompts differ; {row['reward_ratio']:.1f} times that")
    return row


class _Step:
    """A compiled step and the state it goes on from."""

    def __init__(self, start: Start, config: Config):
        mesh = make_mesh(config.mesh)
        state = init_state(config, jax.tree.map(jnp.array, start.params), jax.random.key(0))
        self.state = jax.device_put(state, state_sharding(state, logical_axes(state.params[config.agent]), mesh))
        self.step, self.language = compile_train_step(config, mesh, self.state), start.language

    def __call__(self, batch: ManagerTask) -> PyTree:
        self.state, metrics = self.step(self.state, batch, self.language)
        return metrics


def _act(start: Start) -> Callable[[PyTree, ManagerTask, Array], MemoryBank]:
    sizes = {"group_size": start.config.group_size, "sampling": start.config.sampling}
    return jax.jit(lambda params, tasks, key: manage(params, tasks, key, start.language, start.config, **sizes)[1])


def _reward(start: Start) -> Callable[[PyTree, MemoryBank, ManagerTask], tuple[Array, Array]]:
    return jax.jit(lambda params, bank_PG, tasks: ask(params, bank_PG, tasks, jax.random.key(0), start.language, start.config))


def _timed(function: Callable, *arguments: PyTree) -> tuple[float, PyTree]:
    jax.block_until_ready(arguments)
    started = time.perf_counter()
    value = jax.block_until_ready(function(*arguments))
    return time.perf_counter() - started, value


if __name__ == "__main__":
    measure()
