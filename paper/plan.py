"""What the tables are made from: runs that are trained, and pairings of their agents that are scored. Both are known by their names."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mr1jax.cli import load_config
from mr1jax.config import Config, replace

SEEDS = (1, 2, 3)
RUNS = Path("runs/paper")
DATA = Path("data")


@dataclass(frozen=True)
class Run:
    """One training run, kept in `RUNS / name`. after: the runs that have to be finished before it."""

    name: str
    config: Config
    after: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return RUNS / self.name


@dataclass(frozen=True)
class Pair:
    """Who keeps the banks and who reads them, scored on the test split. config: its `manager_from` and `answerer_from` say which agents.

    after: the runs that have to be finished before it.
    """

    name: str
    config: Config
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Baselines:
    """All other ways to keep a memory, scored in one go, each as `baseline_pair` names it."""

    name: str = "baselines"
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Accuracy:
    """How often a Manager does what memdial's oracle would, on the test split. config: its `manager_from` says which."""

    name: str
    config: Config
    after: tuple[str, ...] = ()


Item = Run | Pair | Baselines | Accuracy


def baseline_pair(row: str) -> Pair:
    """Names the scores of one baseline."""
    return Pair(f"baseline-{row}", Config())


def run(experiment: str, seed: int, variant: str = "", *, after: Sequence[Run] = (), **changes: Any) -> Run:
    """Plans a run of an experiment with some fields changed; after: runs whose agents it starts with, of either kind."""
    name = "-".join(filter(None, (experiment, variant, f"seed{seed}")))
    changes |= {f"{each.config.agent}_from": str(each.folder) for each in after}
    return Run(name, replace(load_config(experiment), seed=seed, **changes), tuple(each.name for each in after))


def pair(*runs: Run) -> Pair:
    """Plans the scoring of the agents that these runs trained, named by them; an agent that none of them trained is the one that ships."""
    names = tuple(each.name for each in runs)
    agents = {f"{each.config.agent}_from": str(each.folder) for each in runs}
    config = replace(Config(distill=all(each.config.distill for each in runs)), **agents)
    return Pair("+".join(("start", *names)), config, names)


def accuracy(of: Pair) -> Accuracy:
    """Plans the accuracy of the Manager of a pair."""
    return Accuracy(f"accuracy-{of.name}", of.config, of.after)


def unique(items: Sequence[Any]) -> list[Any]:
    """Keeps the first of those with one name; raises ValueError where two of one name differ."""
    found: dict[str, Any] = {}
    for item in items:
        if found.setdefault(item.name, item) != item:
            raise ValueError(f"two different plans are named {item.name}; name one of them otherwise")
    return list(found.values())
