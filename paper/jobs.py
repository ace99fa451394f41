"""Trains one run or scores one pair in a process of its own: `python -m paper.jobs NAME`. What is finished is not done again."""

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from mr1jax.baselines.rows import NOTES
from mr1jax.config import ProcessConfig, require
from mr1jax.experiment import RUN_CONFIG, read_run, run_experiment
from mr1jax.report import write_whole
from paper.plan import DATA, RUNS, Accuracy, Baselines, Item, Run, baseline_pair
from paper.scores import score_accuracy, score_baselines, score_pair, scores_path

COST = "cost.json"  # in the folder of a run
CORE = "PAPER_CORE"  # in the environment: the one core that a job may use, so that several do not get in each other's way


def is_trained(run: Run) -> bool:
    """Says whether a run is finished; raises ValueError where its folder holds one of another configuration."""
    if not (run.folder / RUN_CONFIG).is_file():
        return False
    require(read_run(run.folder) == run.config, f"{run.folder} holds a run of another configuration; move it away")
    return True


def train_run(run: Run) -> None:
    """Trains a run into its folder, or goes on with it, and notes what it cost beside it."""
    started = time.monotonic()
    run_experiment(run.config, ProcessConfig(), run.folder, DATA)
    write_whole(run.folder / COST, json.dumps(origin() | {"seconds": time.monotonic() - started}) + "\n")


def is_done(item: Item) -> bool:
    if isinstance(item, Run):
        return is_trained(item)
    pairs = [baseline_pair(name) for name in NOTES] if isinstance(item, Baselines) else [item]
    return all(scores_path(pair).is_file() for pair in pairs)


def origin() -> dict[str, Any]:
    """Says which code ran, and on what."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    return {"commit": commit or "unknown", "machine": describe_machine()}


def describe_machine() -> str:
    """Names the processor and its cores; "Linux x86_64" where the system does not say."""
    info = Path("/proc/cpuinfo")
    models = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    )
    return f"{models[0] if models else platform.platform(terse=True)}, {os.cpu_count()} cores"


def do(item: Item) -> None:
    """Does what is planned; RUNS is made where it is not there."""
    RUNS.mkdir(parents=True, exist_ok=True)
    if isinstance(item, Run):
        train_run(item)
    elif isinstance(item, Baselines):
        score_baselines()
    elif isinstance(item, Accuracy):
        score_accuracy(item)
    else:
        score_pair(item)


def main() -> None:
    """Does the one thing that its argument names."""
    from paper.tables import everything  # what can be named

    if core := os.environ.get(CORE):
        os.sched_setaffinity(0, {int(core)})
    do(next(item for item in everything() if item.name == sys.argv[1]))


if __name__ == "__main__":
    main()
