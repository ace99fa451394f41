"""All tables there are, and everything that they are made from."""

from collections.abc import Sequence
from types import ModuleType

from paper import ablation, curves, latency, operations, rewards
from paper.plan import Pair, Run, unique

TABLES: dict[str, ModuleType] = {"ablation": ablation, "rewards": rewards, "curves": curves, "operations": operations, "latency": latency}


def everything(names: Sequence[str] = tuple(TABLES)) -> list[Run | Pair]:
    """Lists what the named tables need, each once: first the runs, then what is scored."""
    modules = [TABLES[name] for name in names]
    return unique([each for module in modules for each in module.runs()] + [each for module in modules for each in module.pairs()])
