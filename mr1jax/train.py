"""The host loop: draw a batch, run the compiled step, log, save. Everything that learns is in `step`.

A run leaves in its folder `metrics.jsonl` (one line a step) and `checkpoints/`; started again it continues from the newest checkpoint
that verifies, with the same batches as if it had never stopped. Of several processes each reads its own rows of a batch, and the first
writes; the folder is one that all see.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from mr1jax import checkpoint
from mr1jax.agents.prompts import Language
from mr1jax.agents.tasks import take
from mr1jax.config import AGENTS, Config, replace, require
from mr1jax.data.loader import make_loader
from mr1jax.identity import describe_run, require_same_run
from mr1jax.model.lora import BASE
from mr1jax.model.transformer import logical_axes
from mr1jax.processes import is_first, told_to_stop
from mr1jax.profiling import Trace
from mr1jax.run_log import Record, RunLog
from mr1jax.sharding import local_rows, make_mesh, param_sharding, place, place_batch, replicated, state_sharding
from mr1jax.status import Stopped
from mr1jax.step import Tasks, compile_train_step, init_state
from mr1jax.structs import PyTree, TrainState
from mr1jax.validate import make_validation

CHECKPOINTS = "checkpoints"  # in the folder of a run


def train(
    config: Config,
    params: dict[str, PyTree],
    tasks: Tasks,
    language: Language,
    folder: Path | None = None,
    *,
    validation: Tasks | None = None,
    description: str = "train",
    trace: Trace | None = None,
) -> tuple[TrainState, list[Record], int]:
    """Trains one agent for `config.steps` steps.

    params: {"manager": tree, "answerer": tree}; both are copied, so the caller's stay usable. With LoRA they are adapters, and "base" is
    what they are laid over: it is neither copied nor changed. tasks: numpy, a leading axis of tasks.
    folder: where to log and save; None keeps nothing. validation: other tasks, whose greedy reward says which saved step is the best.
    trace: which steps to trace. Returns (state, one record a step, number of compilations). A record has the step's metrics, its
    `seconds`, how many of these went by waiting for its tasks (`data_seconds`), and the response tokens drawn a second of it.

    Raises `Stopped` when it was told to stop and has saved, `ValueError` where the folder holds another run or weights are not finite, and
    `FloatingPointError` when `config.optimizer.max_skipped` steps in a row were skipped.
    """
    trace = trace or Trace()
    run = _Run(config, params, tasks, language, folder, validation)
    done = run.place.step
    with run.keeping() as is_told:
        for number in tqdm(range(done, config.steps), desc=description, initial=done, total=config.steps, disable=not is_first()):
            with trace.step(number + 1):
                record = run.advance()
            told = is_told(number + 1)
            run.finish(record, told)
            if told and number + 1 < config.steps:
                raise Stopped(f"told to stop, and saved after step {number + 1} in {folder}; the same command goes on from there")
    trace.stop()
    return run.state, run.log.records, run.program._cache_size()  # type: ignore[attr-defined]


@dataclass(frozen=True)
class _Place:
    """Where a run stands in its data and its log after a step, and what its checkpoint says of that."""

    step: int
    loader: dict[str, Any]
    metrics: int  # bytes


class _Run:
    """A run between two steps. `sound` is its place before the skipped steps that it may be in the middle of."""

    def __init__(
        self,
        config: Config,
        params: dict[str, PyTree],
        tasks: Tasks,
        language: Language,
        folder: Path | None,
        validation: Tasks | None,
    ):
        self._config, self._folder, self._mesh = config, folder, make_mesh(config.mesh)
        state = _start(config, params, self._mesh)
        self._base = [_place_base(params[BASE], self._mesh)] if BASE in params else []
        _require_finite([state.params, *self._base])
        self.program = compile_train_step(config, self._mesh, state, *self._base)
        self._about = describe_run(config, tasks, *self._base)
        self._language = place(language, jax.tree.map(lambda _: replicated(self._mesh), language))
        self._score = None if validation is None else make_validation(config, validation, self._language, self._mesh)
        self._rows = local_rows(self._mesh, config.prompts_per_step)
        items, batch_size = range(len(jax.tree.leaves(tasks)[0])), config.prompts_per_step
        self._loader = make_loader(items, lambda i: take(tasks, i), batch_size=batch_size, seed=config.seed, rows=self._rows)
        self.state, self.log = self._resume(state)
        self.place = self._sound = self._here()
        self._saver: checkpoint.Saver | None = None

    @contextlib.contextmanager
    def keeping(self) -> Iterator[Callable[[int], bool]]:
        """Opens what a run with a folder saves with, and yields what tells after a step whether to stop."""
        if self._folder is None:
            yield lambda step: False
            return
        with contextlib.closing(self.log), checkpoint.Saver(self._folder / CHECKPOINTS) as self._saver, told_to_stop() as is_told:
            yield is_told

    def advance(self) -> Record:
        """Takes the next step and says how it went."""
        started = time.monotonic()
        batch = place_batch(next(self._loader), self._rows, self._mesh, self._config.prompts_per_step)
        data_seconds = time.monotonic() - started
        self.state, metrics = self.program(self.state, batch, self._language, *self._base)
        record = {"step": self.place.step + 1} | {name: float(value) for name, value in sorted(metrics.items())}
        seconds = time.monotonic() - started
        drawn = record["response_tokens"] * self._config.prompts_per_step * self._config.group_size
        return record | {"seconds": seconds, "data_seconds": data_seconds, "tokens_per_second": drawn / seconds}

    def finish(self, record: Record, told: bool) -> None:
        """Logs a step, and saves where it is due, the last, or the last before a stop. Raises `FloatingPointError` to give up."""
        step, config = int(record["step"]), self._config
        is_due = step % config.save_every == 0 or step == config.steps
        if self._score is not None and is_due:
            record |= {checkpoint.VALIDATION: self._score(self.state.params, *self._base)}
        self.log.append(record)
        self.place = self._here(step)
        if record["skipped"] < 1:
            self._sound = self.place
        elif step - self._sound.step >= config.optimizer.max_skipped:
            self._give_up(record)
        if is_due or told:
            self._save(self.state, self.place, record.get(checkpoint.VALIDATION))

    def _here(self, step: int | None = None) -> _Place:
        return _Place(int(self.state.step) if step is None else step, self._loader.state(), self.log.position)

    def _save(self, state: TrainState, place: _Place, validation: float | None = None) -> None:
        if self._saver is not None:
            extra = {"loader": place.loader, "metrics": place.metrics, checkpoint.VALIDATION: validation, **self._about}
            self._saver.save(place.step, state, extra)

    def _give_up(self, record: Record) -> None:
        """Saves the run as it was before the skipped steps, which changed nothing but its counters, and says why it ends."""
        config, before = self._config.optimizer, self._sound
        if self._saver is not None:
            self._saver.wait()  # it may be writing that very step
            if before.step > 0 and before.step not in checkpoint.finished_steps(self._folder / CHECKPOINTS):
                step = jax.device_put(jnp.int32(before.step), self.state.step.sharding)
                self._save(replace(self.state, step=step), before)
        bad = [f"{name} is {value}" for name, value in record.items() if not np.isfinite(value)]
        bad += [f"loss {record['loss']:.3g} or grad_norm {record['grad_norm']:.3g} is a spike of over {config.spike_sigmas} deviations"]
        saved = f"; it is saved as it was before in {self._folder}, where the same command shows this again" if self._folder else ""
        raise FloatingPointError(
            f"no update was done in {config.max_skipped} steps in a row, from step {before.step + 1} on: {bad[0]}{saved}; "
            "lower optimizer.learning_rate and start another run"
        )

    def _resume(self, state: TrainState) -> tuple[TrainState, RunLog]:
        """Continues from the newest sound checkpoint, if there is one: state, data cursor, and the log up to its step.

        A first save that was cut short has left nothing to continue from; a finished one that is damaged since is refused.
        """
        if self._folder is None or not checkpoint.finished_steps(self._folder / CHECKPOINTS):
            return state, RunLog(self._folder, writes=is_first())
        state, extra, step = checkpoint.restore(self._folder / CHECKPOINTS, state)
        require_same_run(extra, self._about)
        self._loader.restore(extra["loader"])
        return state, RunLog(self._folder, extra["metrics"], step, writes=is_first())


def _start(config: Config, params: dict[str, PyTree], mesh: Mesh) -> TrainState:
    """Lays out a state of its own: the step donates it, so it must be a copy of what the caller gave, and of each agent another one."""
    axes, own = logical_axes(params[config.agent]), {agent: params[agent] for agent in AGENTS}
    own = place(own, state_sharding(own, axes, mesh))

    def start(own: dict[str, PyTree]) -> TrainState:
        return init_state(config, own, jax.random.key(config.seed))

    layout = state_sharding(jax.eval_shape(start, own), axes, mesh)
    return jax.jit(start, out_shardings=layout, donate_argnums=0)(own)


def _place_base(base: PyTree, mesh: Mesh) -> PyTree:
    return jax.device_put(base, param_sharding(base, logical_axes(base), mesh))


@jax.jit
def _are_finite(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jnp.all(jnp.isfinite(x)), tree)


def _require_finite(params: list[PyTree]) -> None:
    """Refuses weights that no step could change, and a frozen agent that could not answer."""
    leaves = jax.tree_util.tree_leaves_with_path(_are_finite(params))
    bad = [jax.tree_util.keystr(path, simple=True, separator="/") for path, is_finite in leaves if not is_finite]
    require(not bad, f"{len(bad)} of the weights to start from hold NaN or infinity, such as {(bad or [''])[0]}; start from others")
