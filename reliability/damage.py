"""Damage to any file of a checkpoint is noticed before anything is read, and the run goes on from the newest step that is sound."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import tiny
from tiny import LANGUAGE

from mr1jax import checkpoint
from mr1jax.config import Config, replace
from mr1jax.manifest import files_of
from mr1jax.step import init_state
from mr1jax.structs import TrainState
from mr1jax.train import CHECKPOINTS, train
from reliability.outcome import Outcome
from reliability.processes import bits
from reliability.program import make_config, make_tasks
from reliability.spec import Spec

LAST, BEFORE = 4, 2  # steps of the run that is damaged


def notice_damage(points: int, seed: int = 0) -> Outcome:
    """Damages one random file of the newest step at a time: the step before it must come back, bit for bit.

    One bit anywhere is flipped, or the file is cut anywhere, emptied, removed, overwritten by another, or a file is added.
    """
    rng, outcome = np.random.default_rng(seed), Outcome()
    with tempfile.TemporaryDirectory() as scratch:
        config, folder = make_config(Spec(steps=LAST, save_every=BEFORE)), Path(scratch)
        train(config, tiny.both(), make_tasks("answerer"), LANGUAGE, folder)
        like = _like(config)
        wanted = bits(checkpoint.restore(folder / CHECKPOINTS, like, step=BEFORE)[0])
        step = folder / CHECKPOINTS / f"step_{LAST:08d}"
        files = files_of(step)
        for _ in range(points):
            name = files[rng.integers(len(files))]
            content = (step / name).read_bytes()
            what = _DAMAGE[rng.integers(len(_DAMAGE))](step / name, rng)
            if what:
                state, _, found = checkpoint.restore(folder / CHECKPOINTS, like)
                outcome.check(found == BEFORE and bits(state) == wanted, f"{name} {what}: step {found} came back")
            (step / "stray").unlink(missing_ok=True)
            (step / name).write_bytes(content)
        outcome.check(not checkpoint.verify(folder / CHECKPOINTS, LAST), "what was put right is not sound")
    return outcome


def refuse_other_runs() -> Outcome:
    """Goes on from the checkpoint of another configuration, model, agent, algorithm or data: refused each time, in one sentence."""
    outcome, tasks = Outcome(), make_tasks("answerer")
    config = make_config(Spec(steps=2))
    changes = {
        "another learning rate": (replace(config, optimizer=replace(config.optimizer, learning_rate=1e-3)), tasks),
        "another seed": (replace(config, seed=1), tasks),
        "another algorithm": (make_config(Spec(algorithm="ppo", steps=2)), tasks),
        "a wider model": (replace(config, model=replace(config.model, d_ff=64)), tasks),
        "a deeper model": (replace(config, model=replace(config.model, num_layers=2)), tasks),
        "the other agent": (make_config(Spec("manager", steps=2)), make_tasks("manager")),
        "other data": (config, tiny.at(tasks, slice(None, None, -1))),
        "less data": (config, tiny.at(tasks, slice(16))),
    }
    with tempfile.TemporaryDirectory() as scratch:
        train(config, tiny.both(), tasks, LANGUAGE, Path(scratch))
        for what, (other, other_tasks) in changes.items():
            try:
                train(other, tiny.both(config=other), other_tasks, LANGUAGE, Path(scratch))
                outcome.check(False, f"{what}: it went on")
            except ValueError as error:
                outcome.check("\n" not in str(error) and "resume with" in str(error), f"{what}: {error}")
    return outcome


def _like(config: Config) -> TrainState:
    return jax.eval_shape(lambda: init_state(config, tiny.both(), jax.random.key(0)))


def _flip(path: Path, rng: np.random.Generator) -> str:
    content = bytearray(path.read_bytes())
    if not content:
        return ""
    place = int(rng.integers(len(content)))
    content[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)
    return f"with a bit flipped at {place}"


def _cut(path: Path, rng: np.random.Generator) -> str:
    content = path.read_bytes()
    if not content:
        return ""
    size = int(rng.integers(len(content)))
    path.write_bytes(content[:size])
    return f"cut to {size} bytes"


def _remove(path: Path, rng: np.random.Generator) -> str:
    path.unlink()
    return "removed"


def _lengthen(path: Path, rng: np.random.Generator) -> str:
    path.write_bytes(path.read_bytes() + bytes(rng.integers(0, 256, 8, np.uint8)))
    return "with eight bytes more"


def _add(path: Path, rng: np.random.Generator) -> str:
    for folder in path.parents:
        if folder.name.startswith("step_"):
            (folder / "stray").write_bytes(b"x")
    return "with a stray file beside it"


_DAMAGE: tuple[Callable[[Path, np.random.Generator], str], ...] = (_flip, _cut, _remove, _lengthen, _add)
