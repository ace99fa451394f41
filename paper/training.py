"""What the logs of finished runs say."""

from collections.abc import Sequence

import numpy as np

from mr1jax.report import moving_average
from mr1jax.run_log import Record, read_log
from paper.plan import Run


def logs(runs: Sequence[Run]) -> list[list[Record]]:
    """Reads a log a run."""
    return [read_log(run.folder) for run in runs]


def mean_of(log: Sequence[Record], metric: str) -> float:
    return float(np.mean([record[metric] for record in log]))


def mean_reward(log: Sequence[Record]) -> float:
    return mean_of(log, "reward")


def first_above(log: Sequence[Record], target: float) -> int:
    """Finds the first step at which the moving average of the reward is above the target; the last where it never is."""
    above = np.flatnonzero(moving_average(np.asarray([record["reward"] for record in log])) >= target)
    return int(log[above[0] if above.size else -1]["step"])
