"""A small run as a process of its own, which can be killed at a chosen moment: what the tests of resuming start again and again.

python -m reliability.program FOLDER SPEC, where SPEC is `Spec` as JSON. It prints how many times it has touched files of its folder.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from mr1jax.config import ProcessConfig
from mr1jax.processes import connect
from reliability.spec import Spec

if __name__ == "__main__":
    FOLDER, SPEC = Path(sys.argv[1]), Spec(**json.loads(sys.argv[2]))
    connect(ProcessConfig(SPEC.coordinator, 2 if SPEC.coordinator else 1, SPEC.process_id))  # before `tiny`, which makes arrays

import jax
import numpy as np
import tiny
from tiny import CONFIG, LANGUAGE

from mr1jax import checkpoint
from mr1jax.config import Config, LossConfig, MeshConfig, OptimizerConfig, replace
from mr1jax.status import STOPPED, Stopped
from mr1jax.step import Tasks
from mr1jax.train import train

NUM_TASKS = 20  # more than a step takes, so that the order of the batches matters and an epoch ends inside a run
_EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree")


def make_config(spec: Spec) -> Config:
    """Makes the configuration of a run: the tests' smallest, with a KL term, so that there is a reference to come back too."""
    loss = LossConfig(algorithm=spec.algorithm, kl_coef=0.01)
    optimizer = OptimizerConfig(learning_rate=3e-3, warmup_steps=2, spike_sigmas=50.0)
    config = replace(CONFIG, agent=spec.agent, loss=loss, optimizer=optimizer, mesh=MeshConfig(*spec.mesh))
    return replace(config, steps=spec.steps, save_every=spec.save_every)


def make_tasks(agent: str) -> Tasks:
    """Makes tasks for an agent: random memories, random questions or facts."""
    rng = np.random.default_rng(0)
    banks = [tiny.random_memories(rng) for _ in range(NUM_TASKS)]
    if agent == "answerer":
        return tiny.answer_tasks(banks, [(tiny.random_question(rng), "tea") for _ in banks])
    asked = [[(tiny.random_question(rng), "tea"), (tiny.random_question(rng), "jazz")][: number % 3] for number in range(NUM_TASKS)]
    return tiny.manager_tasks(banks, [tiny.random_said(rng) for _ in banks], asked)


def _kill(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def count_events(folder: Path, spec: Spec) -> list[int]:
    """Counts from now on, in the list that it returns, how often files below a folder are touched; kills the process at the chosen time."""
    count, place = [0], str(folder.resolve())

    def hear(event: str, arguments: tuple) -> None:
        if event in _EVENTS and str(arguments[0]).startswith(place):
            count[0] += 1
            if count[0] == spec.at_event:
                _kill()

    sys.addaudithook(hear)
    return count


def kill_after_save(spec: Spec) -> None:
    """Has the process killed some time after one of its saves begins."""
    save, number = checkpoint.Saver.save, [0]

    def counted(self, *arguments, **named):
        number[0] += 1
        if number[0] == spec.after_save:
            threading.Timer(spec.milliseconds / 1000, _kill).start()
        return save(self, *arguments, **named)

    checkpoint.Saver.save = counted  # type: ignore[method-assign]


def main(folder: Path, spec: Spec) -> None:
    """Runs or continues what the spec says; exit status as that of the command line."""
    jax.config.update("jax_disable_most_optimizations", True)
    folder.mkdir(parents=True, exist_ok=True)
    count = count_events(folder, spec)
    if spec.after_save:
        kill_after_save(spec)
    print("ready", flush=True)
    try:
        train(make_config(spec), tiny.both(), make_tasks(spec.agent), LANGUAGE, folder)
    except Stopped as stopped:
        print(stopped, flush=True)
        sys.exit(STOPPED)
    print(count[0], flush=True)


if __name__ == "__main__":
    main(FOLDER, SPEC)
