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
import tiny
from test_layouts import OPTIMIZER
from tiny import CONFIG, LANGUAGE, unoptimised  # noqa: F401

from mr1jax import checkpoint
from mr1jax.config import MeshConfig, replace
from mr1jax.model.weights import load_params
from mr1jax.train import train

ROOT = Path(__file__).parents[1]
STEPS = 3


def config(steps, mesh):
    return replace(CONFIG, steps=steps, mesh=mesh, optimizer=OPTIMIZER)


def tasks():
    """More than a step takes, so that it matters which process reads which."""
    rng = np.random.default_rng(0)
    return tiny.answer_tasks([tiny.random_memories(rng) for _ in range(20)], [(tiny.random_question(rng), "tea") for _ in range(20)])


def main(folder, port, number, count, mesh):
    """What one process of several does: a run of a step, which is then continued; and it writes down what it holds at the end."""
    from mr1jax.config import ProcessConfig
    from mr1jax.model.weights import save_params
    from mr1jax.processes import connect
    from mr1jax.sharding import to_host

    connect(ProcessConfig(f"localhost:{port}", count, number, timeout=300))
    jax.config.update("jax_disable_most_optimizations", True)
    mesh = MeshConfig(*mesh)
    train(config(1, mesh), tiny.both(), tasks(), LANGUAGE, folder / "run")
    state, records, compiled = train(config(STEPS, mesh), tiny.both(), tasks(), LANGUAGE, folder / "run")
    assert compiled == 1
    assert [record["step"] for record in records] == [1, 2, 3]
    save_params(folder / f"{number}.safetensors", to_host(state.params["answerer"]))


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
    return train(config(STEPS, MeshConfig()), tiny.both(), tasks(), LANGUAGE)


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
    arguments = [str(tmp_path), str(free_port()), str(count), json.dumps(mesh)]
    processes = [start(__file__, str(number), *arguments, JAX_NUM_CPU_DEVICES=str(devices)) for number in range(count)]
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
        assert {**record, "seconds": 0} == pytest.approx({**wanted, "seconds": 0}, rel=1e-4, abs=1e-5)


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


if __name__ == "__main__":
    main(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[1]), int(sys.argv[4]), json.loads(sys.argv[5]))
