"""Reads the folders of runs and sets them side by side: what differs between their configurations, how they learnt, what they score.

Only files are read, those that `mr1jax train` and `mr1jax eval` leave; no weights, and nothing is computed on a device. How it looks is
the business of `run_page`.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mr1jax.checkpoint import VALIDATION
from mr1jax.config import Config, replace, require
from mr1jax.evaluate import METRICS, Row
from mr1jax.experiment import read_run
from mr1jax.identity import dotted_fields
from mr1jax.report import REPORT, moving_average, row_from_json
from mr1jax.run_log import Record, read_log
from mr1jax.statistics import t_interval

EVALUATIONS = "eval_"  # how the folders in a run begin that `mr1jax eval` writes


@dataclass(frozen=True)
class Evaluation:
    """What a run scored on one data set. p_value: of the last row against the warm start."""

    folder: Path
    questions: int
    p_value: float
    rows: dict[str, Row]


@dataclass(frozen=True)
class Run:
    """One run as its folder has it. evaluations: by what they were on, such as "memdial" or "locomo_dense"; empty where there are none."""

    name: str
    config: Config
    log: list[Record]
    evaluations: dict[str, Evaluation]


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the seed, or a run alone."""

    name: str
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Curve:
    """How one metric of a group went. step_N: ascending; mean_N: moving averages, over seeds their mean.

    interval_2N: the 95 % t interval over seeds of that mean, None of a run alone; points: every step of a run alone, (step, value), None
    of several; validation: (step, score) of every save of every run that was scored, where the metric is the reward.
    """

    name: str
    step_N: np.ndarray
    mean_N: np.ndarray
    interval_2N: np.ndarray | None
    points: tuple[np.ndarray, np.ndarray] | None
    validation: tuple[tuple[int, float], ...]


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Reads runs, named as their folders are; raises ValueError for none, for two of one name and for what is no run or damaged."""
    require(bool(folders), "name the folder of a run or more, as in: mr1jax report runs/grpo_answer")
    names = [folder.resolve().name for folder in folders]
    twice = next((name for name in names if names.count(name) > 1), None)
    require(twice is None, f"two of the runs are named {twice}; name each run once, and give two folders of one name other names")
    return [_read(name, folder) for name, folder in zip(names, folders, strict=True)]


def _read(name: str, folder: Path) -> Run:
    config = read_run(folder)
    found = sorted(path.parent for path in folder.glob(f"{EVALUATIONS}*/{REPORT}"))
    return Run(name, config, read_log(folder), {path.name.removeprefix(EVALUATIONS): _read_evaluation(path) for path in found})


def _read_evaluation(folder: Path) -> Evaluation:
    path = folder / REPORT
    try:
        values = json.loads(path.read_text())
        rows = {str(name): row_from_json(row) for name, row in values["rows"].items()}
        return Evaluation(folder, int(values["questions"]), float(values["p_value"]), rows)
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no report of an evaluation; run mr1jax eval again, or remove the folder") from error


def group_seeds(runs: Sequence[Run]) -> list[Group]:
    """Puts runs together that differ in nothing but the seed, in the order of the first of each; a seed that comes twice is two groups."""
    members: dict[tuple[Config, int], list[Run]] = {}
    seen: Counter[Config] = Counter()
    for run in runs:
        members.setdefault((replace(run.config, seed=0), seen[run.config]), []).append(run)
        seen[run.config] += 1
    return [Group(_name(group), tuple(group)) for group in members.values()]


def _name(runs: Sequence[Run]) -> str:
    names = [run.name for run in runs]
    if len(names) == 1:
        return names[0]
    return f"{', '.join(names) if len(names) < 4 else f'{names[0]} to {names[-1]}'} ({len(names)} seeds)"


def differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Lists the fields of the configurations that are not the same in all runs, with the value that each run has."""
    fields = [dotted_fields(run.config) for run in runs]
    return {name: [each[name] for each in fields] for name in fields[0] if any(each[name] != fields[0][name] for each in fields)}


def metric_names(runs: Sequence[Run]) -> set[str]:
    """Names what any of the runs has logged."""
    return {name for run in runs for record in run.log for name in record}


def curves(groups: Sequence[Group], metric: str) -> list[tuple[int, Curve]]:
    """Makes the curve of a metric of each group that has logged it, with the place of its group among all.

    Steps at which it was not finite are left out. Of several seeds only the steps that all have are in it.
    """
    found = ((place, _curve(group, metric)) for place, group in enumerate(groups))
    return [(place, curve) for place, curve in found if curve is not None]


def _curve(group: Group, metric: str) -> Curve | None:
    series = [{r["step"]: r[metric] for r in run.log if metric in r and np.isfinite(r[metric])} for run in group.runs]
    shared = sorted(set.intersection(*map(set, series)))
    if not shared:
        return None
    step_N = np.array(shared, np.float64)
    smooth_RN = np.array([_smooth(each)[np.isin(sorted(each), step_N)] for each in series])
    alone = len(series) == 1
    return Curve(
        name=group.name,
        step_N=step_N,
        mean_N=np.mean(smooth_RN, axis=0),
        interval_2N=None if alone else np.array([t_interval(values_R) for values_R in smooth_RN.T]).T,
        points=(step_N, np.array([series[0][step] for step in shared])) if alone else None,
        validation=_validation(group) if metric == "reward" else (),
    )


def _smooth(values: dict[float, float]) -> np.ndarray:
    return moving_average(np.array([values[step] for step in sorted(values)]))


def _validation(group: Group) -> tuple[tuple[int, float], ...]:
    scored = [(int(r["step"]), r[VALIDATION]) for run in group.runs for r in run.log if np.isfinite(r.get(VALIDATION, np.nan))]
    return tuple(sorted(scored))


def sources(runs: Sequence[Run]) -> list[str]:
    """Names what any of the runs was evaluated on."""
    return list(dict.fromkeys(source for run in runs for source in run.evaluations))


def score_rows(runs: Sequence[Run], source: str) -> list[tuple[list[str], str, Row]]:
    """Lists the rows of all runs evaluated on `source` as (names of runs, name of row, row); what several have alike is listed once."""
    listed: list[tuple[list[str], str, Row]] = []
    for run in runs:
        for name, row in run.evaluations[source].rows.items() if source in run.evaluations else ():
            same = next((names for names, other, known in listed if (other, known) == (name, row)), None)
            if same is None:
                listed.append(([run.name], name, row))
            else:
                same.append(run.name)
    return listed


def seed_scores(group: Group, source: str) -> dict[str, dict[str, tuple[float, tuple[float, float]]]]:
    """Averages each row that every run of a group has over its seeds: {row: {metric: (mean, 95 % t interval)}}, in percent.

    Rows that no seed changed, those of agents that were not trained, are left out. Empty where fewer than two of the runs were evaluated
    on `source`.
    """
    evaluated = [run.evaluations[source].rows for run in group.runs if source in run.evaluations]
    if len(evaluated) < 2:
        return {}
    shared = [name for name in evaluated[0] if all(name in rows for rows in evaluated)]
    shared = [name for name in shared if any(rows[name] != evaluated[0][name] for rows in evaluated)]
    values = {name: {metric: [getattr(rows[name], metric) for rows in evaluated] for metric in METRICS} for name in shared}
    return {name: {metric: (float(np.mean(v)), t_interval(v)) for metric, v in each.items()} for name, each in values.items()}
