"""What one process of several does in a test: a run of one step, which is then continued; it writes down the parameters it ends with.

python one_process.py FOLDER COORDINATOR COUNT NUMBER DATA FSDP TENSOR
"""

import sys
from pathlib import Path

from mr1jax.config import MeshConfig, ProcessConfig, replace
from mr1jax.processes import connect

if __name__ == "__main__":
    FOLDER, COORDINATOR, COUNT, NUMBER, *AXES = sys.argv[1:]
    connect(ProcessConfig(COORDINATOR, int(COUNT), int(NUMBER)))  # before `tiny`, which makes arrays

import jax
import numpy as np
import tiny
from tiny import CONFIG, LANGUAGE

from mr1jax.config import OptimizerConfig
from mr1jax.model.weights import save_params
from mr1jax.sharding import to_host
from mr1jax.train import train

STEPS = 3


def run(steps, mesh, folder=None):
    """A run with more tasks than a step takes, so that it matters which process reads which."""
    rng = np.random.default_rng(0)
    tasks = tiny.answer_tasks([tiny.random_memories(rng) for _ in range(20)], [(tiny.random_question(rng), "tea") for _ in range(20)])
    # At this rate 1e-6 is well above what AdamW makes of other roundings, and far below what it moves.
    config = replace(CONFIG, steps=steps, mesh=mesh, optimizer=OptimizerConfig(learning_rate=3e-4, warmup_steps=0))
    return train(config, tiny.both(), tasks, LANGUAGE, folder)


if __name__ == "__main__":
    jax.config.update("jax_disable_most_optimizations", True)
    mesh = MeshConfig(*map(int, AXES))
    _, _, compiled = run(1, mesh, Path(FOLDER) / "run")
    assert compiled == 1
    state, records, _ = run(STEPS, mesh, Path(FOLDER) / "run")
    assert [record["step"] for record in records] == [1, 2, 3]
    save_params(Path(FOLDER) / f"{NUMBER}.safetensors", to_host(state.params["answerer"]))
