"""Saves a run so that what comes back is what was saved, or a clear refusal: Orbax writes the arrays, a sha256 manifest vouches for them.

    directory/step_00000020/state/         the tree, by Orbax
                            record.json    {"extra": what the caller adds, "leaves": shape and dtype of every leaf}
                            manifest.json  {file: sha256 of it}, written last: a step without it was never finished

Where a run has several processes, Orbax writes the part of each, and the first of them does the rest; all must see the directory.
Orbax restores a flipped bit without a word, so nothing is read before all files match the manifest; a step that does not match is passed
over, with a warning, for the newest one before it that does.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding

from mr1jax.config import require
from mr1jax.processes import from_first, is_first, wait_for_all
from mr1jax.structs import PyTree

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
RECORD = "record.json"
RECORDED_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
NO_STEP = 0  # no step of a run: its first is 1
MAY_CHANGE = ("steps", "mesh")  # a run may be prolonged, and moved to other devices; anything else makes it another run


def save(directory: str | Path, step: int, state: PyTree, extra: dict[str, Any], max_to_keep: int = 3) -> Path:
    """Writes a step, waits until it is on disk, then removes all but the newest max_to_keep steps up to this one.

    state: a tree of arrays, typed PRNG keys included; extra: anything JSON holds. Steps later than this one stay: they are those that a
    restore passed over as damaged, and are written anew when the run reaches them. Returns the folder of the step.
    Raises `ValueError` if the step is already there and sound, or max_to_keep is below 1.
    """
    require(max_to_keep >= 1, f"max_to_keep is {max_to_keep}; keep 1 checkpoint or more")
    folder = _folder(directory, step)
    if folder.exists():
        require(bool(verify(directory, step)), f"step {step} is already saved in {directory}; give another directory to start another run")
    wait_for_all("all have looked at what is there")
    if is_first():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    wait_for_all("the folder is there")
    with ocp.StandardCheckpointer() as checkpointer:  # leaving the block waits for the commit
        checkpointer.save(folder / "state", state)
    if is_first():
        _write_json(folder / RECORD, {"extra": extra, "leaves": _describe_leaves(state)})
        _write_json(folder / MANIFEST, {name: _sha256(folder / name) for name in _files(folder)})
        for old in [kept for kept in saved_steps(directory) if kept <= step][:-max_to_keep]:
            shutil.rmtree(_folder(directory, old))
    wait_for_all("the step is complete")
    return folder


def restore(directory: str | Path, like_state: PyTree, shardings: PyTree | None = None) -> tuple[PyTree, dict[str, Any], int]:
    """Reads the newest step that verifies.

    like_state: a tree of arrays or `jax.ShapeDtypeStruct` of the shapes and dtypes to come back; shardings: the same tree with a sharding
    at each leaf, which need not be the one saved from; by default each leaf goes where that of like_state is, or to the first device.
    Returns (state, extra, step). Raises `ValueError` if there is nothing sound to read, or what is there has other leaves.
    """
    steps = saved_steps(directory)
    require(bool(steps), f"{directory} holds no checkpoint; train first, or give the directory of an earlier run")
    step = from_first((latest_verified_step(directory) or NO_STEP) if is_first() else NO_STEP)
    if step == NO_STEP:
        raise ValueError(f"every checkpoint in {directory} is damaged (steps {steps}); train again in another directory")
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


def latest_verified_step(directory: str | Path) -> int | None:
    """Finds the newest step whose files all match its manifest, and warns of each it passes over; None if there is none."""
    for step in reversed(saved_steps(directory)):
        problems = verify(directory, step)
        if not problems:
            return step
        logger.warning("passing over the checkpoint of step %d in %s: %s", step, directory, "; ".join(problems))
    return None


def verify(directory: str | Path, step: int) -> list[str]:
    """Compares every file of a step with its manifest. Returns the problems, one short clause each: an empty list means sound."""
    folder = _folder(directory, step)
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except FileNotFoundError:
        return [f"{MANIFEST} is missing, so the save did not finish or the file was lost"]
    except ValueError:  # what JSON or UTF-8 cannot be
        return [f"{MANIFEST} is not readable"]
    missing = [name for name in manifest if not (folder / name).is_file()]
    changed = [name for name, digest in manifest.items() if name not in missing and _sha256(folder / name) != digest]
    return [f"{name} is missing" for name in missing] + [f"{name} was changed" for name in changed]


def report_checkpoints(directory: Path, *, read_files: bool) -> bool:
    """Prints a line for each step that is saved: its size, with what it was saved, and whether it is sound.

    read_files: compare every file with its manifest, and say how fast they were read; else only whether the save was finished. Returns
    whether all are sound. Raises `ValueError` where nothing is saved.
    """
    steps = saved_steps(directory)
    require(bool(steps), f"{directory} holds no checkpoint; name the folder of a run, such as runs/grpo_answer")
    sound, started, num_bytes = True, time.monotonic(), 0
    for step in steps:
        folder = _folder(directory, step)
        size = sum((folder / name).stat().st_size for name in _files(folder))
        if read_files:
            problems = verify(directory, step)
        else:
            problems = [] if (folder / MANIFEST).is_file() else [f"{MANIFEST} is missing, so the save did not finish"]
        sound, num_bytes = sound and not problems, num_bytes + size
        state = "; ".join(problems) or ("sound" if read_files else "finished")
        print(f"step {step:>8}  {size / 1e6:10.2f} MB  {_versions(folder):30}  {state}")
    if read_files:
        print(f"read {num_bytes / 1e6:.2f} MB at {num_bytes / 1e6 / (time.monotonic() - started):.0f} MB/s")
    return sound


def _versions(folder: Path) -> str:
    """Names what wrote a step, as far as its record can be read."""
    try:
        versions = json.loads((folder / RECORD).read_text())["extra"]["versions"]
        return f"jax {versions['jax']}, orbax {versions['orbax-checkpoint']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def describe_run(config: Any) -> dict[str, Any]:
    """Describes a run for `extra`: the fields of its configuration (a dataclass) under dotted names, and package versions."""
    versions = {package: importlib.metadata.version(package) for package in RECORDED_PACKAGES}
    fields = json.loads(json.dumps(dataclasses.asdict(config)))  # as a record gives it back, where a tuple is a list
    return {"config": _dotted(fields), "versions": versions}


def require_same_config(extra: dict[str, Any], config: Any) -> None:
    """Raises `ValueError` if config is not that of the run which was saved with `describe_run` in its extra, `MAY_CHANGE` aside."""
    then, now = extra["config"], describe_run(config)["config"]
    changed = [name for name in sorted(then.keys() | now.keys()) if then.get(name) != now.get(name)]
    differences = [f"{name} was {then.get(name)} and is {now.get(name)}" for name in changed if name.split(".")[0] not in MAY_CHANGE]
    require(
        not differences,
        f"the checkpoint is of another configuration: {', '.join(differences)}; resume with that one, or give another directory",
    )


def fingerprint(tree: PyTree) -> str:
    """Returns 16 hexadecimal digits by which weights are known again, whatever their layout and whether they are float32 or bfloat16.

    They are of the name and shape of each leaf and of the sum, modulo 2**32, of the bits of its numbers in bfloat16: a sum of integers is
    the same in any order, so that every device adds up what it holds. Against accidents, not against malice.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    sums = jax.device_get(_sum_of_bits([leaf for _, leaf in leaves]))
    names = (f"{jax.tree_util.keystr(path)}{list(leaf.shape)}" for path, leaf in leaves)
    text = "".join(f"{name}{int(total)}\n" for name, total in zip(names, sums, strict=True))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@jax.jit
def _sum_of_bits(leaves: list[jax.Array]) -> list[jax.Array]:
    bits = [jax.lax.bitcast_convert_type(leaf.astype(jnp.bfloat16), jnp.uint16) for leaf in leaves]
    return [jnp.sum(each, dtype=jnp.uint32) for each in bits]


def _dotted(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in values.items():
        fields |= _dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return fields


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


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1))
