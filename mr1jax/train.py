"""The host loop: draw a batch, run the compiled step, log, save. Everything that learns is in `step`.

A run leaves in its folder `metrics.jsonl` (one line a step) and `checkpoints/`; started again it continues from the newest checkpoint
that verifies, with the same batches as if it had never stopped. Of several processes each reads its own rows of a batch, and the first
writes; the folder is one that all see.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from mr1jax import checkpoint
from mr1jax.agents.prompts import Language
from mr1jax.agents.tasks import take
from mr1jax.config import AGENTS, Config, require
from mr1jax.data.loader import Loader, make_loader
from mr1jax.model.lora import BASE
from mr1jax.model.transformer import logical_axes
from mr1jax.processes import is_first
from mr1jax.profiling import Trace
from mr1jax.sharding import local_rows, make_mesh, param_sharding, place, place_batch, replicated, state_sharding
from mr1jax.step import Tasks, compile_train_step, init_state
from mr1jax.structs import PyTree, TrainState

Record = dict[str, float]


def train(
    config: Config,
    params: dict[str, PyTree],
    tasks: Tasks,
    language: Language,
    folder: Path | None = None,
    *,
    save_every: int = 50,
    description: str = "train",
    trace: Trace | None = None,
) -> tuple[TrainState, list[Record], int]:
    """Trains one agent for `config.steps` steps.

    params: {"manager": tree, "answerer": tree}; both are copied, so the caller's stay usable. With LoRA they are adapters, and "base" is
    what they are laid over: it is neither copied nor changed. tasks: numpy, a leading axis of tasks.
    folder: where to log and save; None keeps nothing. trace: which steps to trace. Returns (state, one record a step, number of
    compilations). A record has the step's metrics, its `seconds`, how many of these went by waiting for its tasks (`data_seconds`), and
    the response tokens drawn a second of it.
    """
    trace = trace or Trace()
    mesh = make_mesh(config.mesh)
    state = _start(config, params, mesh)
    base = [jax.device_put(params[BASE], param_sharding(params[BASE], logical_axes(params[BASE]), mesh))] if BASE in params else []
    step = compile_train_step(config, mesh, state, *base)
    about = checkpoint.describe_run(config) | ({"base": checkpoint.fingerprint(*base)} if base else {})
    language = place(language, jax.tree.map(lambda _: replicated(mesh), language))
    num_tasks, batch_size = len(jax.tree.leaves(tasks)[0]), config.prompts_per_step
    rows = local_rows(mesh, batch_size)
    loader = make_loader(range(num_tasks), lambda i: take(tasks, i), batch_size=batch_size, seed=config.seed, rows=rows)
    records: list[Record] = []
    if folder is not None:
        state, records = _resume(folder, config, about, state, loader)
    done = int(state.step)
    progress = tqdm(range(done, config.steps), desc=description, initial=done, total=config.steps, disable=not is_first())
    with _log(folder if is_first() else None, records) as write:
        for number in progress:
            started = time.monotonic()
            with trace.step(number + 1):
                batch = place_batch(next(loader), rows, mesh, batch_size)
                data_seconds = time.monotonic() - started
                state, metrics = step(state, batch, language, *base)
                record = {"step": number + 1} | {name: float(value) for name, value in sorted(metrics.items())}
            _require_finite(record)
            record["seconds"] = time.monotonic() - started
            record["data_seconds"] = data_seconds
            drawn = record["response_tokens"] * config.prompts_per_step * config.group_size
            record["tokens_per_second"] = drawn / record["seconds"]
            records.append(record)
            write(record)
            if folder is not None and ((number + 1) % save_every == 0 or number + 1 == config.steps):
                checkpoint.save(folder / "checkpoints", number + 1, state, {"loader": loader.state(), **about})
    trace.stop()
    return state, records, step._cache_size()  # type: ignore[attr-defined]


def _start(config: Config, params: dict[str, PyTree], mesh: Mesh) -> TrainState:
    """Lays out a state of its own: the step donates it, so it must be a copy of what the caller gave, and of each agent another one."""
    axes, own = logical_axes(params[config.agent]), {agent: params[agent] for agent in AGENTS}
    own = place(own, state_sharding(own, axes, mesh))

    def start(own: dict[str, PyTree]) -> TrainState:
        return init_state(config, own, jax.random.key(config.seed))

    layout = state_sharding(jax.eval_shape(start, own), axes, mesh)
    return jax.jit(start, out_shardings=layout, donate_argnums=0)(own)


def _resume(folder: Path, config: Config, about: dict[str, Any], state: TrainState, loader: Loader) -> tuple[TrainState, list[Record]]:
    """Continues from the newest sound checkpoint, if there is one: state, data cursor, and the log up to its step."""
    if not checkpoint.saved_steps(folder / "checkpoints"):
        return state, []
    lines = (folder / "metrics.jsonl").read_text().splitlines()  # before the first process, which restores with all others, writes it
    state, extra, step = checkpoint.restore(folder / "checkpoints", state)
    checkpoint.require_same_config(extra, config)
    require(extra.get("base") == about.get("base"), f"{folder} was trained on another base than this; resume with the weights it had")
    loader.restore(extra["loader"])
    return state, [record for record in map(json.loads, lines) if record["step"] <= step]


@contextlib.contextmanager
def _log(folder: Path | None, records: list[Record]) -> Iterator[Callable[[Record], None]]:
    """Opens `metrics.jsonl` with the records so far rewritten, and yields what appends one; without a folder, what forgets it."""
    if folder is None:
        yield lambda record: None
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metrics.jsonl").open("w", buffering=1) as file:  # a line at a time, so that a killed run leaves whole lines
        for record in records:
            print(json.dumps(record), file=file)
        yield lambda record: print(json.dumps(record), file=file)


def _require_finite(record: Record) -> None:
    bad = [name for name, value in record.items() if not np.isfinite(value)]
    if bad:
        raise FloatingPointError(f"{bad[0]} is {record[bad[0]]} at step {record['step']}; lower optimizer.learning_rate and start again")
