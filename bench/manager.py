"""What a Manager's step saves by what its group shares: the Manager's prompt, and answers to prompts that are the same.

    python -m bench.manager

Beside it runs the same step on groups of one, each task there as often as a group has members: every prompt is then read for itself, in
all passes. Groups of one have no GRPO, so both are PPO.
"""

import statistics
from collections.abc import Callable

import jax
import jax.numpy as jnp

from bench.step import Step, make_batches, timed
from mr1jax.agents.rollout import ManagerTask, ask, manage
from mr1jax.cli import load_experiment
from mr1jax.config import replace
from mr1jax.prepare import Start, load_start
from mr1jax.structs import Array, MemoryBank, PyTree

BATCHES = 12


def measure() -> dict[str, float]:
    """Times the demo's Manager both ways, batch after batch: the whole step, and the reward of what the warm start does."""
    start = load_start(load_experiment("demo").manager())
    shared = replace(start.config, loss=replace(start.config.loss, algorithm="ppo"))
    size = shared.group_size
    single = replace(shared, prompts_per_step=shared.prompts_per_step * size, group_size=1)
    loader = make_batches(start)
    steps, rewards, act = [Step(start, config) for config in (shared, single)], _reward(start), _act(start)
    rows = []
    for number in range(BATCHES):
        batch = next(loader)
        repeated = jax.tree.map(lambda x: jnp.repeat(x, size, axis=0), batch)
        bank_PG = act(start.params["manager"], batch, jax.random.key(number))
        alone_PG1 = jax.tree.map(lambda x: x.reshape(-1, 1, *x.shape[2:]), bank_PG)
        step_s, _ = timed(steps[0], batch)
        single_s, _ = timed(steps[1], repeated)
        ask_s, (reward_PG, share_read) = timed(rewards, start.params["answerer"], bank_PG, batch)
        alone_s, (alone, _) = timed(rewards, start.params["answerer"], alone_PG1, repeated)
        if not jnp.array_equal(alone.reshape(reward_PG.shape), reward_PG):
            raise AssertionError("what is shared was paid differently from what is not")
        rows.append((step_s, single_s, single_s / step_s, ask_s, alone_s, alone_s / ask_s, float(share_read)))
    names = ("step_s", "step_of_singles_s", "step_ratio", "reward_s", "reward_of_singles_s", "reward_ratio", "prompts_read")
    row = {name: statistics.median(column) for name, column in zip(names, zip(*rows[1:], strict=True), strict=True)}
    of = f"{shared.prompts_per_step} tasks x {size}"
    print(f"Manager's step, {of}: {row['step_s']:.2f} s; {row['step_ratio']:.1f} times that with nothing shared")
    print(f"its reward: {row['reward_s']:.2f} s, {row['prompts_read']:.0%} of the prompts differ; {row['reward_ratio']:.1f} times that")
    return row


def _act(start: Start) -> Callable[[PyTree, ManagerTask, Array], MemoryBank]:
    sizes = {"group_size": start.config.group_size, "sampling": start.config.sampling}
    return jax.jit(lambda params, tasks, key: manage(params, tasks, key, start.language, start.config, **sizes)[1])


def _reward(start: Start) -> Callable[[PyTree, MemoryBank, ManagerTask], tuple[Array, Array]]:
    return jax.jit(lambda params, bank_PG, tasks: ask(params, bank_PG, tasks, jax.random.key(0), start.language, start.config))


if __name__ == "__main__":
    measure()
