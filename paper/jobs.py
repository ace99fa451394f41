"""Trains one run or scores one pair in a process of its own: `python -m paper.jobs NAME`. What is finished is not done again."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mr1jax.baselines.rows import NOTES
from mr1jax.config import ProcessConfig, require
from mr1jax.experiment import RUN_CONFIG, read_run, run_experiment
from mr1jax.report import write_whole
from paper.plan import DATA, RUNS, Accuracy, Baselines, Item, Run, baseline_pair
from paper.scores import score_accuracy, score_baselines, score_pair, scores_path

CORE = "PAPER_CORE"  # in the environment: the one core that a job may use, so that several do not get in each other's way


def is_trained(run: Run) -> bool:
    """Says whether a run is finished; raises ValueError where its folder holds one of another configuration."""
    if not (run.folder / RUN_CONFIG).is_file():
        return False
    require(read_run(run.folder) == run.config, f"{run.folder} holds a run of another configuration; move it away")
    return True


def is_done(item: Item) -> bool:
    if isinstance(item, Run):
        return is_trained(item)
    pairs = [baseline_pair(name) for name in NOTES] if isinstance(item, Baselines) else [item]
    return all(scores_path(pair).is_file() for pair in pairs)


def cost_path(item: Item) -> Path:
    return RUNS / "costs" / f"{item.name}.json"


def add_cost(item: Item, seconds: float) -> None:
    """Notes what a job cost, on which code and machine; what it cost before it was stopped is in it."""
    before = json.loads(cost_path(item).read_text())["seconds"] if cost_path(item).is_file() else 0.0
    write_whole(cost_path(item), json.dumps(origin() | {"seconds": before + seconds}) + "\n")


def costs(items: Sequence[Item]) -> dict[str, Any]:
    """Adds up what jobs cost: minutes, and on which code and machines."""
    noted = [json.loads(cost_path(item).read_text()) for item in items]
    commits, machines = (sorted({each[name] for each in noted}) for name in ("commit", "machine"))
    return {"machine": "; ".join(machines), "commits": commits, "minutes": round(sum(each["seconds"] for each in noted) / 60, 1)}


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
        run_experiment(item.config, ProcessConfig(), item.folder, DATA)
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
    item, started = next(item for item in everything() if item.name == sys.argv[1]), time.monotonic()
    try:
        do(item)
    finally:
        add_cost(item, time.monotonic() - started)


if __name__ == "__main__":
    main()
