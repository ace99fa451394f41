"""Several processes on this machine, joined over the loopback, against one: what they learn, log and save; and one that never comes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from one_process import STEPS, run
from tiny import unoptimised  # noqa: F401

from mr1jax import checkpoint
from mr1jax.config import MeshConfig
from mr1jax.model.weights import load_params

ROOT = Path(__file__).parents[1]


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def start(*arguments, **variables):
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = os.environ | {"PYTHONPATH": path, "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache")} | variables
    return subprocess.Popen([sys.executable, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def alone():
    """The same run in one process, on one device."""
    return run(STEPS, MeshConfig())


@pytest.mark.parametrize(
    ("count", "devices", "mesh"),
    [
        pytest.param(2, 1, (1, 2, 1), id="2 processes, parameters cut"),
        pytest.param(2, 2, (2, 1, 2), id="2 processes of 2 devices", marks=pytest.mark.slow),
        pytest.param(2, 2, (1, 1, 4), id="2 processes that read the same rows", marks=pytest.mark.slow),
        pytest.param(4, 2, (2, 2, 2), id="4 processes of 2 devices", marks=pytest.mark.slow),
    ],
)
def test_processes_do_together_what_one_does(alone, tmp_path, count, devices, mesh):
    """Oracle: the run of one process: the parameters, in every process and in the checkpoint, and the log. There is one of each."""
    program = [str(ROOT / "tests/one_process.py"), str(tmp_path), f"localhost:{free_port()}", str(count)]
    processes = [start(*program, *map(str, (number, *mesh)), JAX_NUM_CPU_DEVICES=str(devices)) for number in range(count)]
    for process in processes:
        _, said = process.communicate(timeout=540)
        assert process.returncode == 0, said
    state, records, _ = alone

    def assert_close(params):
        jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, rtol=0, atol=1e-6), params, state.params["answerer"])

    for number in range(count):
        assert_close(load_params(tmp_path / f"{number}.safetensors"))
    restored, extra, step = checkpoint.restore(tmp_path / "run/checkpoints", state)
    assert_close(restored.params["answerer"])
    assert step == STEPS
    assert extra["config"]["mesh.fsdp"] == mesh[1]
    assert [checkpoint.verify(tmp_path / "run/checkpoints", step) for step in (1, STEPS)] == [[], []]
    logged = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    for record, wanted in zip(logged, records, strict=True):
        timed = dict.fromkeys(("seconds", "data_seconds", "tokens_per_second"), 0)
        assert record | timed == pytest.approx(wanted | timed, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("number", [0, 1])
def test_a_process_that_never_comes_is_not_waited_for_for_ever(tmp_path, number):
    """Oracle: the sentence and the status, of the process that listens and of one that calls; no run was begun."""
    port = free_port()
    command = f"import os; os.chdir({str(tmp_path)!r}); from mr1jax.cli import main; main()"
    arguments = f"train grpo_answer --coordinator localhost:{port} --num-processes 2 --process-id {number} --timeout 2".split()
    process = start("-c", command, *arguments)
    _, said = process.communicate(timeout=200)
    expected = f"process {number} of 2 has waited 2 s at localhost:{port} for the others; start all of them, or raise --timeout"
    assert (process.returncode, said) == (2, f"mr1jax: {expected}\n")
    assert list(tmp_path.iterdir()) == []
