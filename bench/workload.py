"""A training step of one size, and how its time grows with the group, the prompt and the response.

    python -m bench.workload

Random weights, no grammar, and no end token, so that every response has its full length: what is timed is the arithmetic. A step is one
program of the library's own functions: prompts read, responses drawn, reward, reference, loss, backward pass, AdamW.
"""

import functools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from mr1jax.agents.prompts import Language
from mr1jax.config import AgentConfig, Config, LossConfig, MeshConfig, ModelConfig, OptimizerConfig, replace
from mr1jax.model.transformer import init_params, prefill
from mr1jax.rl.sampling import generate
from mr1jax.sharding import make_mesh, replicated
from mr1jax.step import init_state, next_state
from mr1jax.structs import Array, TrainState, Trajectory
from mr1jax.update import make_loss_batch, run_update_once

ROUNDS = 5
MIB = 2**20


@dataclass(frozen=True)
class Workload:
    """The sizes of one step. The defaults are the workload that peers were measured on."""

    prompts: int = 4
    group: int = 8
    prompt_length: int = 512
    response_length: int = 32
    algorithm: Literal["grpo", "ppo"] = "grpo"
    dtype: Literal["float32", "bfloat16"] = "float32"

    @property
    def config(self) -> Config:
        """A Qwen2-style model of 4,002,048 parameters under the loss of `algorithm`, with a reference of its own."""
        sizes = {"vocab_size": 4096, "d_model": 256, "num_layers": 4, "num_heads": 4, "num_kv_heads": 2, "head_dim": 64, "d_ff": 704}
        agent = AgentConfig(num_retrieved=1, prompt_length=self.prompt_length, response_length=self.response_length)
        return Config(
            prompts_per_step=self.prompts,
            group_size=self.group,
            model=ModelConfig(**sizes, dtype=self.dtype),
            answerer=agent,
            loss=LossConfig(algorithm=self.algorithm, kl_coef=0.04, epochs=1, num_minibatches=1),
            optimizer=OptimizerConfig(learning_rate=1e-6, warmup_steps=0),
            mesh=MeshConfig(),
        )


BASE = Workload()
WORKLOADS = {
    "W": BASE,
    "group 16": replace(BASE, group=16),
    "prompt 2048": replace(BASE, prompt_length=2048),
    "prompt 8192": replace(BASE, prompt_length=8192),
    "response 256": replace(BASE, response_length=256),
    "ppo": replace(BASE, algorithm="ppo"),
    "bfloat16": replace(BASE, dtype="bfloat16"),
}


def train_step(state: TrainState, prompt_PL: Array, length_P: Array, *, config: Config) -> tuple[TrainState, dict[str, Array]]:
    """Does one step on P prompts. The reward of a response is the share of even tokens in it.

    Returns the state and what shows the work: ratio_gap and kl of its first update, float32[]; length of the responses, int32[P, G].
    """
    key = jax.random.fold_in(state.key, state.step)
    params, vocab_size = state.params[config.agent], config.model.vocab_size
    cache, pull_back = jax.vjp(lambda params: prefill(config.model, params, prompt_PL, length_P), params)
    generation = generate(
        config.model,
        params,
        cache,
        key,
        group_size=config.group_size,
        num_tokens=config.trained.response_length,
        grammar=None,
        eos_id=vocab_size,  # which is no token: every response has its full length
        sampling=config.sampling,
    )
    reward_PG = jnp.mean(generation.tokens % 2 == 0, axis=-1, dtype=jnp.float32)
    trajectory = Trajectory(prompt=prompt_PL, prompt_length=length_P, generation=generation, reward=reward_PG)
    language = Language(table=None, manager=None, answerer=None, phrases=None, eos_id=vocab_size)
    batch = make_loss_batch(trajectory, state.reference, language, config)
    learnt, metrics = run_update_once(state, cache, pull_back, trajectory, batch, language, config)
    return next_state(state, learnt, config), {"ratio_gap": metrics["ratio_gap"][0], "kl": metrics["kl"][0], "length": generation.length}


class Program:
    """The compiled step of a workload and a state of its own."""

    def __init__(self, workload: Workload):
        self.config, self.size = workload.config, (workload.prompts, workload.prompt_length)
        self.step = jax.jit(functools.partial(train_step, config=self.config), donate_argnums=0)
        state = init_state(self.config, {self.config.agent: init_params(self.config.model, jax.random.key(0))}, jax.random.key(1))
        self.state = jax.device_put(state, replicated(make_mesh(self.config.mesh)))  # where the step leaves it
        self.number = 0

    def batch(self) -> tuple[Array, Array]:
        """Makes other prompts at every call, all of full length."""
        self.number += 1
        prompt_PL = jax.random.randint(jax.random.key(self.number), self.size, 1, self.config.model.vocab_size)
        return prompt_PL, jnp.full(self.size[:1], self.size[1], jnp.int32)

    def temporary_mib(self) -> float:
        """What the compiler sets aside beyond arguments and results."""
        return self.step.lower(self.state, *self.batch()).compile().memory_analysis().temp_size_in_bytes / MIB

    def run(self) -> dict[str, float]:
        """Does a step on a new batch: seconds on the clock and of all cores together."""
        batch = jax.block_until_ready(self.batch())
        wall, cpu = time.perf_counter(), time.process_time()
        self.state, shown = jax.block_until_ready(self.step(self.state, *batch))
        return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "ratio_gap": float(shown["ratio_gap"])}


def measure(names: Iterator[str] | None = None, rounds: int = ROUNDS) -> dict[str, dict[str, float]]:
    """Times workloads in turn, `rounds` steps each after the one that compiles: medians, and ratios to W in the same round."""
    programs = {name: Program(WORKLOADS[name]) for name in names or WORKLOADS}
    compile_s = {name: program.run()["wall_s"] for name, program in programs.items()}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            runs[name].append(program.run())
    return {name: _row(name, programs[name], runs, compile_s[name]) for name in programs}


def _row(name: str, program: Program, runs: dict, compile_s: float) -> dict[str, float]:
    def median(value: Callable[[dict, dict], float]) -> float:
        return statistics.median(value(run, base) for run, base in zip(runs[name], runs["W"], strict=True))

    row = {
        "step_s": median(lambda run, _: run["wall_s"]),
        "cpu_s": median(lambda run, _: run["cpu_s"]),
        "times_w": median(lambda run, base: run["wall_s"] / base["wall_s"]),
        "ratio_gap": max(run["ratio_gap"] for run in runs[name]),
        "first_step_s": compile_s,
        "compilations": program.step._cache_size(),
        "temporary_mib": program.temporary_mib(),
    }
    print(
        f"{name:>12}: {row['step_s']:.2f} s a step ({row['cpu_s']:.2f} s of all cores), {row['times_w']:.2f} times W; "
        f"{row['temporary_mib']:,.0f} MiB of temporaries; {row['compilations']} compilation"
    )
    return row


if __name__ == "__main__":
    measure()
