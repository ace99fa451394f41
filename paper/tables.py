"""All tables there are, and everything that they are made from."""

from collections.abc import Sequence
from types import ModuleType

from paper import ablation, algorithms, alternation, credit, curves, latency, main_table, operations, rewards
from paper.plan import Item, unique

TABLES: dict[str, ModuleType] = {
    "ablation": ablation,
    "main": main_table,
    "rewards": rewards,
    "curves": curves,
    "operations": operations,
    "algorithms": algorithms,
    "credit": credit,
    "alternation": alternation,
    "latency": latency,
}


def everything(names: Sequence[str] = tuple(TABLES)) -> list[Item]:
    """Lists what the named tables need, each once: first the runs, then what is scored."""
    modules = [TABLES[name] for name in names]
    return unique([each for module in modules for each in module.runs()] + [each for module in modules for each in module.pairs()])
