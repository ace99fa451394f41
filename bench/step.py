"""What a training step of the demo costs: seconds, share of a rollout in it, compilations over different batches, peak memory."""

import resource
import statistics
import time
from collections.abc import Callable

import jax

from mr1jax.agents.play import manager_rollout
from mr1jax.agents.rollout import Metrics, answer_rollout
from mr1jax.agents.tasks import take
from mr1jax.cli import load_experiment
from mr1jax.config import Config
from mr1jax.data.loader import Loader, make_loader
from mr1jax.data.memdial.world import conversations
from mr1jax.model.transformer import logical_axes
from mr1jax.prepare import Start, load_start, make_tasks
from mr1jax.sharding import make_mesh, state_sharding
from mr1jax.step import Tasks, compile_train_step, init_state
from mr1jax.structs import PyTree


def measure(num_batches: int = 100) -> dict[str, dict[str, float]]:
    """Times both agents' steps of the demo over `num_batches` different batches each."""
    experiment = load_experiment("demo")
    configs = {"answerer": experiment.answerer(), "manager": experiment.manager()}
    result = {name: _measure_agent(config, num_batches) for name, config in configs.items()}
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory of the process: {peak_gib:.2f} GiB")
    return result | {"process": {"peak_gib": peak_gib}}


class Step:
    """A compiled step and the state it goes on from."""

    def __init__(self, start: Start, config: Config):
        mesh = make_mesh(config.mesh)
        state = init_state(config, jax.tree.map(jax.numpy.array, start.params), jax.random.key(0))
        self.state = jax.device_put(
            state, state_sharding(state, logical_axes(state.params[config.agent]), mesh)
        )  # where the step leaves it
        self.program, self.language = compile_train_step(config, mesh, self.state), start.language

    def __call__(self, batch: Tasks) -> Metrics:
        """Does a step on a batch, and returns its metrics."""
        self.state, metrics = self.program(self.state, batch, self.language)
        return metrics


def make_batches(start: Start) -> Loader:
    """Draws batches of the training split without end."""
    tasks = make_tasks(list(conversations("train", 1, 32)), start)
    num_tasks = len(jax.tree.leaves(tasks)[0])
    return make_loader(range(num_tasks), lambda i: take(tasks, i), batch_size=start.config.prompts_per_step, seed=0)


def _measure_agent(config: Config, num_batches: int) -> dict[str, float]:
    start = load_start(config)
    config, loader = start.config, make_batches(start)
    step = Step(start, config)
    rollout = answer_rollout if config.agent == "answerer" else manager_rollout
    only_rollout = jax.jit(lambda params, tasks, key: rollout(params, tasks, key, start.language, config)[1])
    batch, key = next(loader), jax.random.key(1)
    timed(only_rollout, start.params, batch, key)  # compiles
    rollout_s, seconds = [], []
    for _ in range(num_batches):
        batch = next(loader)
        rollout_s += [timed(only_rollout, start.params, batch, key)[0]] if len(rollout_s) < 10 else []
        seconds.append(timed(step, batch)[0])
    result = {
        "step_s": statistics.median(seconds[1:]),
        "rollout_share": statistics.median(rollout_s) / statistics.median(seconds[1:]),
        "first_step_s": seconds[0],
        "batches": num_batches,
        "compilations": step.program._cache_size(),
    }
    print(
        f"{config.agent}: {result['step_s']:.2f} s a step ({config.prompts_per_step} tasks x {config.group_size}), "
        f"of which the rollout {result['rollout_share']:.0%}; first step {result['first_step_s']:.0f} s; "
        f"{result['compilations']} compilation over {num_batches} batches"
    )
    return result


def timed(function: Callable, *arguments: PyTree) -> tuple[float, PyTree]:
    """Returns the seconds that a call takes until its result is there, and the result."""
    jax.block_until_ready(arguments)
    started = time.perf_counter()
    value = jax.block_until_ready(function(*arguments))
    return time.perf_counter() - started, value
