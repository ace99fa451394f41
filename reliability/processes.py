"""Starts runs as processes of their own, and compares what two of them left: parameters, moments, keys and log, bit for bit."""

import json
import os
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from mr1jax import checkpoint
from mr1jax.run_log import METRICS
from mr1jax.status import FAILURE
from mr1jax.step import init_state
from mr1jax.structs import PyTree
from mr1jax.train import CHECKPOINTS
from reliability.program import make_config
from reliability.spec import Spec

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 300  # seconds that a run may take
_TIMED = ("seconds", "data_seconds", "tokens_per_second")


def start(folder: Path, spec: Spec) -> subprocess.Popen:
    """Starts a run on as many fake devices as its mesh has, half of them where it is one of two processes."""
    devices = int(np.prod(spec.mesh)) // (2 if spec.coordinator else 1)
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache"),
        "PJRT_NPROC": "64",  # as in tests/conftest.py: devices that wait for each other must not share a thread
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    }
    return subprocess.Popen(spec.command(folder), env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(folder: Path, spec: Spec) -> tuple[int, str]:
    """Runs a spec to its end, whichever that is. Returns the exit status, negative for a signal, and what it printed.

    Raises `RuntimeError` where it broke down.
    """
    process = start(folder, spec)
    said, error = process.communicate(timeout=LIMIT)
    if process.returncode == FAILURE:  # that of an exception
        raise RuntimeError(f"a run broke down: {error[-2000:]}")
    return process.returncode, said


def differences(folder: Path, other: Path, spec: Spec) -> list[str]:
    """Compares the newest checkpoints of two runs and their logs, times aside. Returns one clause for each thing that differs."""
    like = jax.eval_shape(lambda: init_state(make_config(spec), tiny.both(), jax.random.key(0)))
    (state, extra, step), (other_state, other_extra, other_step) = (checkpoint.restore(run / CHECKPOINTS, like) for run in (folder, other))
    wrong = [f"step is {step}, not {other_step}"] if step != other_step else []
    for (path, leaf), other_leaf in zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(other_state), strict=True):
        if bits(leaf) != bits(other_leaf):
            wrong.append(f"{jax.tree_util.keystr(path)} differs")
    if extra["loader"] != other_extra["loader"]:
        wrong.append("the place in the data differs")
    return wrong + (["the log differs"] if read_records(folder) != read_records(other) else [])


def read_records(folder: Path) -> list[dict[str, float]]:
    """Reads the log of a run without what is measured by the clock; a last line that a kill cut short is left out."""
    path = folder / METRICS
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return timeless([json.loads(line) for line in lines if line.endswith("\n")])


def timeless(records: list[dict[str, float]]) -> list[dict[str, float]]:
    """Leaves out of records what is measured by the clock."""
    return [{name: value for name, value in record.items() if name not in _TIMED} for record in records]


def bits(tree: PyTree) -> list[bytes]:
    """Gives the bytes of every leaf, keys by their data."""
    plain = (jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf for leaf in jax.tree.leaves(tree))
    return [np.asarray(leaf).tobytes() for leaf in plain]
