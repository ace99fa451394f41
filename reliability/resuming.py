"""A run that stopped and went on in another process is the run that did not stop: both agents, both algorithms, one device and eight."""

import dataclasses
import itertools
import signal
import socket
import tempfile
import time
from pathlib import Path

import numpy as np

from mr1jax import checkpoint
from mr1jax.status import STOPPED
from mr1jax.train import CHECKPOINTS
from reliability.outcome import Outcome
from reliability.processes import LIMIT, differences, run, start
from reliability.spec import Spec

MESHES = ((1, 1, 1), (2, 2, 2))
_WAIT = 0.05  # seconds between two looks at a log


def resume_in_new_process(agents: tuple[str, ...], algorithms: tuple[str, ...], meshes: tuple[tuple[int, int, int], ...]) -> Outcome:
    """Compares 2N steps with N steps and, in a new process, N more: parameters, moments, reference, keys, data and log, bit for bit."""
    outcome = Outcome()
    for agent, algorithm, mesh in itertools.product(agents, algorithms, meshes):
        spec = Spec(agent, algorithm, mesh, steps=6, save_every=3)
        with tempfile.TemporaryDirectory() as scratch:
            whole, halves = Path(scratch) / "whole", Path(scratch) / "halves"
            run(whole, spec)
            run(halves, dataclasses.replace(spec, steps=3))
            run(halves, spec)
            wrong = differences(halves, whole, spec)
        outcome.check(not wrong, f"{agent} by {algorithm} on {mesh}: {', '.join(wrong[:3])}")
    return outcome


def stop_and_resume(points: int, seed: int = 0) -> Outcome:
    """Sends SIGTERM after a random step of a run: it must save that step or a later one, end with status 75, and go on as if unbroken."""
    rng, outcome, spec = np.random.default_rng(seed), Outcome(), Spec(steps=40, save_every=1000)
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole"
        run(whole, spec)
        for point in range(points):
            folder = Path(scratch) / str(point)
            step = int(rng.integers(1, spec.steps // 2))
            status = _stop_after(step, folder, [spec])
            saved = checkpoint.latest_verified_step(folder / CHECKPOINTS) or 0
            outcome.check(status == [STOPPED], f"SIGTERM after step {step}: ended with status {status}")
            outcome.lost += max(0, step - saved)
            run(folder, spec)
            outcome.failures += [f"SIGTERM after step {step}: {clause}" for clause in differences(folder, whole, spec)]
    return outcome


def stop_two_processes() -> Outcome:
    """Sends SIGTERM to the second of two processes: both must save one step, and end with status 75."""
    with tempfile.TemporaryDirectory() as scratch, socket.socket() as listener:
        folder = Path(scratch) / "run"
        listener.bind(("localhost", 0))
        port = listener.getsockname()[1]
        listener.close()
        spec = Spec(mesh=(1, 2, 1), steps=400, save_every=1000, coordinator=f"localhost:{port}")
        status = _stop_after(3, folder, [spec, dataclasses.replace(spec, process_id=1)])
        outcome = Outcome()
        outcome.check(status == [STOPPED] * 2, f"two processes ended with status {status}")
        saved = checkpoint.saved_steps(folder / CHECKPOINTS)
        outcome.check(len(saved) == 1 and saved[0] >= 3, f"two processes left the steps {saved}")
    return outcome


def _stop_after(step: int, folder: Path, specs: list[Spec]) -> list[int]:
    """Starts the processes of a run and sends the last of them SIGTERM once so many steps are logged. Returns their exit statuses."""
    processes, log, deadline = [start(folder, spec) for spec in specs], folder / "metrics.jsonl", time.monotonic() + LIMIT
    while time.monotonic() < deadline and not (log.exists() and len(log.read_bytes().splitlines()) >= step):
        time.sleep(_WAIT)
    processes[-1].send_signal(signal.SIGTERM)
    for process in processes:
        process.communicate(timeout=LIMIT)
    return [process.returncode for process in processes]
