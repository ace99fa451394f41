"""The Manager trained by every algorithm there is, on the same states for the same number of steps."""

from mr1jax.config import LossConfig
from paper import figures
from paper.ablation import agents
from paper.plan import SEEDS, Pair, Run, pair, run
from paper.scores import P_NOTE, compare, summarise
from paper.table import Table
from paper.training import logs, mean_of, mean_reward

EXPERIMENT = "grpo_manager"
TWICE = "two updates a rollout"
# Name of the variant, and what of the experiment it changes.
VARIANTS = {
    "dr_grpo": {"loss": LossConfig(algorithm="dr_grpo")},
    "dapo": {"loss": LossConfig(algorithm="dapo"), "prompts_per_step": 24, "prompts_kept": 16},
    f"grpo, {TWICE}": {"loss": LossConfig(algorithm="grpo", epochs=2)},
    f"gspo, {TWICE}": {"loss": LossConfig(algorithm="gspo", epochs=2, clip_eps=3e-4, clip_eps_high=4e-4)},
}


def row_runs(name: str) -> list[Run]:
    """Plans the runs of one row, one a seed."""
    if name in ("grpo", "ppo"):
        return [agents(name, seed)["manager"] for seed in SEEDS]
    return [run(EXPERIMENT, seed, name.split(",")[0] + "-twice" * (TWICE in name), **VARIANTS[name]) for seed in SEEDS]


def row_pairs(name: str) -> list[Pair]:
    return [pair(each) for each in row_runs(name)]


NAMES = ("grpo", "ppo", *VARIANTS)


def runs() -> list[Run]:
    return [each for name in NAMES for each in row_runs(name)]


def pairs() -> list[Pair]:
    return [pair(), *(each for name in NAMES for each in row_pairs(name))]


def make() -> Table:
    rows: dict = {"start": {"scores": summarise([pair()])}}
    for name in NAMES:
        found = logs(row_runs(name))
        rows[name] = {
            "scores": summarise(row_pairs(name)),
            "reward, last ten steps": sum(mean_reward(log[-10:]) for log in found) / len(found),
            "dead groups, percent": 100 * sum(mean_of(log, "dead_groups") for log in found) / len(found),
            "minutes": sum(sum(record["seconds"] for record in log) for log in found) / len(found) / 60,
        }
    return Table(
        name="algorithms",
        title="Algorithms",
        question="Does another algorithm make a better Manager than GRPO?",
        rows=rows,
        found=(_told(rows),),
        notes=(
            "Where a rollout serves one update every ratio is 1: GSPO is then GRPO, and no clip acts. So GSPO is compared with GRPO where "
            "each rollout serves two.",
            "DAPO draws 24 groups a step and trains on 16, those whose rewards differ first.",
            "RLOO (arXiv:2402.14740) was compared too, and is no longer here: EM 69.5 [65.7, 72.9], p = 0.63 against grpo. On one update a "
            "rollout its gradient is Dr. GRPO's times a constant, which AdamW hardly feels.",
            P_NOTE,
            "Minutes of cores that other work shared: of the same steps they tell little.",
        ),
        figure=figures.bars({name: {"EM": row["scores"]} for name, row in rows.items()}, "EM on memdial's test split, percent"),
    )


def _told(rows: dict) -> str:
    against = {name: f"grpo, {TWICE}" if name.endswith(TWICE) else "grpo" for name in NAMES}
    told = [
        f"{name}: {compare(rows[other]['scores'], rows[name]['scores'], row_pairs(other), row_pairs(name))}"
        for name, other in against.items()
        if name != other
    ]
    return f"Against grpo of as many updates, by EM: {'; '.join(told)}."
