"""`kill -9` at any point: what is left resumes from the last good step, with no batch lost or done twice."""

import dataclasses
import tempfile
from pathlib import Path

import numpy as np

from mr1jax import checkpoint
from mr1jax.train import CHECKPOINTS
from reliability.outcome import Outcome
from reliability.processes import differences, read_records, run
from reliability.spec import Spec

SPEC = Spec(steps=12, save_every=2)
_AFTER_SAVE = 60.0  # milliseconds: about as long as a save takes


def survive_kills(points: int, seed: int = 0) -> Outcome:
    """Kills runs at so many points and starts them again until they are done, each then compared with a run that nothing befell.

    Half of the points lie where a file of the run is touched (a line of the log, a folder made, a manifest opened, an old step removed),
    half some milliseconds after a save began. After each kill the newest sound step may not be older than before, and the log must begin
    as that of the whole run does; at the end parameters, moments, keys, place in the data and log are equal, bit for bit.
    """
    rng, outcome = np.random.default_rng(seed), Outcome()
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole"
        num_events = int(run(whole, SPEC)[1].split()[-1])
        while outcome.tried < points:
            folder = Path(tempfile.mkdtemp(dir=scratch))
            while _kill_once(folder, whole, _draw_point(rng, num_events), outcome) and outcome.tried < points:
                pass
            run(folder, SPEC)
            wrong = differences(folder, whole, SPEC)
            outcome.failures += [f"after kills: {clause}" for clause in wrong]
    return outcome


def _draw_point(rng: np.random.Generator, num_events: int) -> Spec:
    if rng.random() < 0.5:
        return dataclasses.replace(SPEC, at_event=int(rng.integers(1, num_events // 2)))
    return dataclasses.replace(SPEC, after_save=int(rng.integers(1, 3)), milliseconds=float(rng.uniform(0, _AFTER_SAVE)))


def _kill_once(folder: Path, whole: Path, spec: Spec, outcome: Outcome) -> bool:
    """Runs until the kill, and looks at what is left. Returns whether it was killed at all."""
    before = _newest(folder)
    status, _ = run(folder, spec)
    if status == 0:
        return False
    after, records, wanted = _newest(folder), read_records(folder), read_records(whole)
    point = f"killed at event {spec.at_event}, save {spec.after_save} + {spec.milliseconds:.0f} ms"
    outcome.check(status == -9, f"{point}: ended with status {status}")
    if after < before:
        outcome.lost += before - after
        outcome.failures.append(f"{point}: the newest sound step is {after}, and was {before}")
    if records != wanted[: len(records)] or len(records) < after:
        outcome.lost += 1
        outcome.failures.append(f"{point}: the log has {len(records)} records that are not those of the whole run")
    return True


def _newest(folder: Path) -> int:
    return checkpoint.latest_verified_step(folder / CHECKPOINTS) or 0
