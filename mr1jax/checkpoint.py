"""Saves a run so that what comes back is what was saved, or a clear refusal: Orbax writes the arrays, a sha256 manifest vouches for them.

    directory/step_00000020/state/         the tree, by Orbax
                            record.json    {"extra": what the caller adds, "leaves": shape and dtype of every leaf}
                            manifest.json  {file: sha256 of it}, written last: a step without it was never finished

A save goes on beside the run. Where a run has several processes, Orbax writes the part of each, and the first of them does the rest; all
must see the directory. Orbax restores a flipped bit without a word, so nothing is read before all files match the manifest; a step that
does not match is passed over, with a warning, for the newest one before it that does.
"""

import json
import logging
import math
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding

from mr1jax.config import require
from mr1jax.manifest import MANIFEST, files_of, is_finished, verify_folder, write_manifest
from mr1jax.processes import from_first, is_first, wait_for_all
from mr1jax.structs import PyTree

logger = logging.getLogger(__name__)

RECORD = "record.json"
VALIDATION = "validation"  # what an extra calls the score that the best step is chosen by
NO_STEP = -1


class Saver:
    """Saves the steps of one run while it goes on. Leaving its block waits for the step that is being written.

    max_to_keep: of the newest steps; the one with the best validation score is kept beside them. Raises `ValueError` if it is below 1.
    """

    def __init__(self, directory: str | Path, max_to_keep: int = 3):
        require(max_to_keep >= 1, f"max_to_keep is {max_to_keep}; keep 1 checkpoint or more")
        self._directory, self._max_to_keep = Path(directory), max_to_keep
        self._checkpointer = ocp.StandardCheckpointer()
        self._finisher: threading.Thread | None = None
        self._failure: BaseException | None = None

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, *raised) -> None:
        try:
            self.wait()
        finally:
            self._checkpointer.close()

    def save(self, step: int, state: PyTree, extra: dict[str, Any]) -> None:
        """Copies the state to the host and begins to write it; only then, and first of all, waits for the step before it.

        state: a tree of arrays, typed PRNG keys included, which may be donated at once; extra: anything JSON holds, a score to choose the
        best step by under `VALIDATION`. Once it is written, all but the newest and the best step up to this one are removed. Later ones
        stay: they are those that a restore passed over as damaged, and are written anew when the run reaches them. Raises `ValueError` if
        the step is already there and sound, or the one before it could not be written.
        """
        self.wait()
        folder = _folder(self._directory, step)
        if folder.exists():
            remedy = "give another directory to start another run"
            require(bool(verify_folder(folder)), f"step {step} is already saved in {self._directory}; {remedy}")
        wait_for_all("all have looked at what is there")
        if is_first():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        wait_for_all("the folder is there")
        self._checkpointer.save(folder / "state", state)
        if is_first():
            record = {"extra": extra, "leaves": _describe_leaves(state)}
            self._finisher = threading.Thread(target=self._finish, args=(step, record), name=f"save of step {step}")
            self._finisher.start()

    def wait(self) -> None:
        """Returns when the step that is being written is complete. Raises `ValueError` where it could not be written."""
        if self._finisher is not None:
            self._finisher.join()
            self._finisher = None
        if self._failure is None:
            self._checkpointer.wait_until_finished()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise ValueError(f"a step could not be saved in {self._directory} ({failure}); make room there and start again") from failure
        wait_for_all("the step is complete")

    def _finish(self, step: int, record: dict[str, Any]) -> None:
        """Does, beside the run, what comes after the arrays."""
        folder = _folder(self._directory, step)
        try:
            self._checkpointer.wait_until_finished()  # all processes have written theirs
            (folder / RECORD).write_text(json.dumps(record, indent=1))
            write_manifest(folder)
            for old in self._outdated(step):
                (_folder(self._directory, old) / MANIFEST).unlink(missing_ok=True)  # half removed it must not look like a step
                shutil.rmtree(_folder(self._directory, old))
        except BaseException as failure:  # noqa: BLE001  for the thread that waits
            self._failure = failure

    def _outdated(self, step: int) -> list[int]:
        steps = [kept for kept in saved_steps(self._directory) if kept <= step]
        best = best_step(self._directory)
        return [old for old in steps[: -self._max_to_keep] if old != best]


def restore(
    directory: str | Path, like_state: PyTree, shardings: PyTree | None = None, step: int | None = None
) -> tuple[PyTree, dict[str, Any], int]:
    """Reads the newest step that verifies, or the one that is named.

    like_state: a tree of arrays or `jax.ShapeDtypeStruct` of the shapes and dtypes to come back; shardings: the same tree with a sharding
    at each leaf, which need not be the one saved from; by default each leaf goes where that of like_state is, or to the first device.
    Returns (state, extra, step). Raises `ValueError` if there is nothing sound to read, or what is there has other leaves.
    """
    steps = saved_steps(directory)
    require(bool(steps), f"{directory} holds no checkpoint; train first, or give the directory of an earlier run")
    if step is None:
        step = from_first(_or_none(latest_verified_step(directory)) if is_first() else NO_STEP)
        if step == NO_STEP:
            raise ValueError(f"every checkpoint in {directory} is damaged (steps {steps}); train again in another directory")
    else:
        problems = verify_folder(_folder(directory, step))
        require(not problems, f"step {step} in {directory} is damaged: {'; '.join(problems)}")
    folder = _folder(directory, step)
    record = json.loads((folder / RECORD).read_text())
    _require_same_leaves(record["leaves"], _describe_leaves(like_state), folder)
    if shardings is None:
        shardings = jax.tree.map(lambda leaf: getattr(leaf, "sharding", None) or SingleDeviceSharding(jax.devices()[0]), like_state)
    target = jax.tree.map(lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), like_state, shardings)
    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore(folder / "state", target)
    return state, record["extra"], step


def saved_steps(directory: str | Path) -> list[int]:
    """Lists the steps that have a folder, oldest first, sound or not; none if there is no such directory."""
    return sorted(int(folder.name.removeprefix("step_")) for folder in Path(directory).glob("step_" + "[0-9]" * 8))


def finished_steps(directory: str | Path) -> list[int]:
    """Lists the steps whose save came to its end, oldest first, sound or not since."""
    return [step for step in saved_steps(directory) if is_finished(_folder(directory, step))]


def latest_verified_step(directory: str | Path) -> int | None:
    """Finds the newest step whose files all match its manifest, and warns of each it passes over; None if there is none."""
    for step in reversed(saved_steps(directory)):
        problems = verify(directory, step)
        if not problems:
            return step
        logger.warning("passing over the checkpoint of step %d in %s: %s", step, directory, "; ".join(problems))
    return None


def best_step(directory: str | Path) -> int | None:
    """Finds the finished step with the highest validation score, of equal ones the first; None where none has a score."""
    scores = {step: _score(_folder(directory, step)) for step in finished_steps(directory)}
    scored = {step: score for step, score in scores.items() if not math.isnan(score)}
    return max(scored, key=lambda step: (scored[step], -step)) if scored else None


def verify(directory: str | Path, step: int) -> list[str]:
    """Compares every file of a step with its manifest. Returns the problems, one short clause each: an empty list means sound."""
    return verify_folder(_folder(directory, step))


def report_checkpoints(directory: Path, *, read_files: bool) -> bool:
    """Prints a line for each step that is saved: its size, with what it was saved, and whether it is sound.

    read_files: compare every file with its manifest, and say how fast they were read; else only whether the save was finished. Returns
    whether all are sound. Raises `ValueError` where nothing is saved.
    """
    steps = saved_steps(directory)
    require(bool(steps), f"{directory} holds no checkpoint; name the folder of a run, such as runs/grpo_answer")
    best, sound, started, num_bytes = best_step(directory), True, time.monotonic(), 0
    for step in steps:
        folder = _folder(directory, step)
        size = sum((folder / name).stat().st_size for name in files_of(folder))
        if read_files:
            problems = verify_folder(folder)
        else:
            problems = [] if is_finished(folder) else [f"{MANIFEST} is missing, so the save did not finish"]
        sound, num_bytes = sound and not problems, num_bytes + size
        state = "; ".join(problems) or ("sound" if read_files else "finished")
        print(f"step {step:>8}  {size / 1e6:10.2f} MB  {_about(folder):60}  {'best  ' if step == best else ''}{state}")
    if read_files:
        print(f"read {num_bytes / 1e6:.2f} MB at {num_bytes / 1e6 / (time.monotonic() - started):.0f} MB/s")
    return sound


def _score(folder: Path) -> float:
    score = _extra(folder).get(VALIDATION)
    return score if isinstance(score, float) else math.nan


def _about(folder: Path) -> str:
    """Says what a step was saved of and with, as far as its record can be read."""
    extra = _extra(folder)
    versions = extra.get("versions", {})
    words = [f"jax {versions.get('jax')}, orbax {versions.get('orbax-checkpoint')}"] if versions else []
    words += [f"config {extra['config_hash']}"] if "config_hash" in extra else []
    return ", ".join(words + ([f"validation {extra[VALIDATION]:.3f}"] if extra.get(VALIDATION) is not None else []))


def _extra(folder: Path) -> dict[str, Any]:
    """Reads what the caller added to a step; nothing where the record is missing or damaged."""
    try:
        return dict(json.loads((folder / RECORD).read_text())["extra"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _or_none(step: int | None) -> int:
    return NO_STEP if step is None else step


def _describe_leaves(state: PyTree) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


def _require_same_leaves(saved: dict[str, str], wanted: dict[str, str], folder: Path) -> None:
    names = [name for name in sorted(saved.keys() | wanted.keys()) if saved.get(name) != wanted.get(name)]
    if names:
        first, more = names[0], f" and {len(names) - 1} more leaves differ" if len(names) > 1 else ""
        raise ValueError(
            f"{folder} does not fit: {first} is {saved.get(first, 'absent')} there and {wanted.get(first, 'absent')} here{more}; "
            "resume with the configuration of that run"
        )


def _folder(directory: str | Path, step: int) -> Path:
    return Path(directory).resolve() / f"step_{step:08d}"  # Orbax wants absolute paths
