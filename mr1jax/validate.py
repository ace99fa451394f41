"""The score that the best step of a run is chosen by: the mean reward of greedy responses to tasks that it does not train on."""

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from mr1jax.agents.play import greedy_reward
from mr1jax.agents.prompts import Language
from mr1jax.agents.tasks import take
from mr1jax.config import Config
from mr1jax.model.lora import BASE
from mr1jax.sharding import local_rows, on_mesh, place_batch, replicated
from mr1jax.step import Tasks
from mr1jax.structs import Array, PyTree


def make_validation(config: Config, tasks: Tasks, language: Language, mesh: Mesh) -> Callable[..., float]:
    """Returns what scores parameters as the train step takes them, and the base where there is one: a number from 0 to 1.

    tasks: numpy, a leading axis of any size; they go through in batches of `config.prompts_per_step`, in one program. Every process must
    call what is returned.
    """
    num_tasks, batch_size = len(jax.tree.leaves(tasks)[0]), config.prompts_per_step
    rows = local_rows(mesh, batch_size)

    def rewards(params: dict[str, PyTree], batch: Tasks, language: Language, base: PyTree | None) -> Array:
        with on_mesh(mesh):
            whole = params if base is None else params | {BASE: base}
            return greedy_reward(whole, batch, jax.random.key(0), language, config)

    program = jax.jit(rewards, out_shardings=replicated(mesh))

    def score(params: dict[str, PyTree], base: PyTree | None = None) -> float:
        found = []
        for start in range(0, num_tasks, batch_size):
            index = np.minimum(start + np.array(rows), num_tasks - 1)  # the last batch is filled up with its last task
            batch = place_batch(take(tasks, index), rows, mesh, batch_size)
            found.append(np.asarray(program(params, batch, language, base))[: num_tasks - start])
        return float(np.mean(np.concatenate(found)))

    return score
