"""The paper's ablation (its section 4.3): each agent trained alone, both, and both with an Answer Agent that quotes no memories."""

from paper import figures
from paper.plan import SEEDS, Pair, Run, pair, run, unique
from paper.scores import P_NOTE, compare, summarise
from paper.table import Table

ALGORITHMS = ("grpo", "ppo")
ROWS = ("base", "rl_manager", "rl_answer", "no_distillation", "full")
THEIRS = {  # F1 / BLEU-1 / J on LoCoMo, Llama-3.1-8B
    "base": {"GRPO": "26.7 / 20.5 / 47.8", "PPO": "26.7 / 20.5 / 47.8"},
    "rl_manager": {"GRPO": "33.0 / 24.9 / 59.9", "PPO": "32.5 / 24.6 / 59.4"},
    "rl_answer": {"GRPO": "37.5 / 30.6 / 52.9", "PPO": "34.5 / 28.1 / 49.0"},
    "no_distillation": {"GRPO": "41.0 / 34.4 / 60.1", "PPO": "39.3 / 30.9 / 57.4"},
    "full": {"GRPO": "45.0 / 37.5 / 62.7", "PPO": "41.0 / 32.9 / 57.5"},
}
STEPS = (("base", "rl_answer"), ("base", "rl_manager"), ("rl_answer", "full"), ("rl_manager", "full"), ("no_distillation", "full"))
NOTES = (
    P_NOTE,
    "The two agents of `full` were trained apart, each against the start's partner, and put together; the paper does not say which one "
    "was frozen beside which.",
    "Without distillation the grammar leaves the Answer Agent nothing but `**Answer:** text`. The start was taught to quote and has never "
    "answered in another way; the paper's instruction-tuned models had.",
    "The start is a model of 0.94 M parameters that imitates the habits of an untrained language model; see README.md.",
)


def agents(algorithm: str, seed: int) -> dict[str, Run]:
    """Plans the three trained agents of one algorithm and seed."""
    return {
        "manager": run(f"{algorithm}_manager", seed),
        "answerer": run(f"{algorithm}_answer", seed),
        "undistilled": run(f"{algorithm}_answer", seed, "undistilled", distill=False),
    }


def row_pairs(algorithm: str, row: str) -> list[Pair]:
    """Plans a row of the table, a pair a seed; the base, which has no seed, is one."""
    used = {
        "base": (),
        "rl_manager": ("manager",),
        "rl_answer": ("answerer",),
        "no_distillation": ("manager", "undistilled"),
        "full": ("manager", "answerer"),
    }[row]
    return unique([pair(*(agents(algorithm, seed)[each] for each in used)) for seed in SEEDS])


def runs() -> list[Run]:
    return [each for seed in SEEDS for algorithm in ALGORITHMS for each in agents(algorithm, seed).values()]


def pairs() -> list[Pair]:
    return [each for algorithm in ALGORITHMS for row in ROWS for each in row_pairs(algorithm, row)]


def _step(rows: dict, algorithm: str, lower: str, upper: str) -> str:
    compared = compare(rows[lower][algorithm], rows[upper][algorithm], row_pairs(algorithm, lower), row_pairs(algorithm, upper))
    return f"{upper} against {lower}: {compared}"


def make() -> Table:
    rows = {row: {algorithm: summarise(row_pairs(algorithm, row)) for algorithm in ALGORITHMS} for row in ROWS}
    found = [f"{algorithm.upper()}: " + "; ".join(_step(rows, algorithm, *step) for step in STEPS) + "." for algorithm in ALGORITHMS]
    figure = figures.bars({row: {a.upper(): rows[row][a] for a in ALGORITHMS} for row in ROWS}, "EM on memdial's test split, percent")
    return Table(
        name="ablation",
        title="Ablation",
        question="What is each trained agent worth alone, both together, and without quoting memories first?",
        rows=rows,
        theirs=THEIRS,
        theirs_are="F1 / BLEU-1 / judge on LoCoMo, Llama-3.1-8B (arXiv 2508.19828, section 4.3 and table 1)",
        found=tuple(found),
        notes=NOTES,
        figure=figure,
    )
