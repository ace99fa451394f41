"""PPO against GRPO (the paper's figure 7): how fast each learns, for both agents, and where it ends on questions nobody trained on."""

from paper import figures
from paper.ablation import ALGORITHMS, agents, row_pairs
from paper.plan import SEEDS, Pair, Run
from paper.scores import summarise
from paper.table import Table
from paper.training import first_above, logs, mean_reward

NOTES = (
    "The paper prints the curves without numbers: with exact match as reward GRPO rises faster at first, and both end alike.",
    "Rewards are of sampled responses in training; the scores are of greedy ones on the test split.",
)


def runs() -> list[Run]:
    return [agents(algorithm, seed)[agent] for seed in SEEDS for algorithm in ALGORITHMS for agent in ("answerer", "manager")]


def pairs() -> list[Pair]:
    return [each for algorithm in ALGORITHMS for row in ("rl_answer", "rl_manager") for each in row_pairs(algorithm, row)]


def make() -> Table:
    rows, drawn = {}, {}
    for agent, title in (("answerer", "Answer Agent"), ("manager", "Memory Manager")):
        found = {algorithm: logs([agents(algorithm, seed)[agent] for seed in SEEDS]) for algorithm in ALGORITHMS}
        target = min(mean_reward(log[-10:]) for of in found.values() for log in of) - 0.005
        for algorithm, of_seeds in found.items():
            drawn[f"{algorithm.upper()}, {title}"] = of_seeds
            rows[f"{title}, {algorithm.upper()}"] = {
                "reward, first ten steps": sum(mean_reward(log[:10]) for log in of_seeds) / len(of_seeds),
                "reward, last ten steps": sum(mean_reward(log[-10:]) for log in of_seeds) / len(of_seeds),
                f"steps to {target:.3f}": sum(first_above(log, target) for log in of_seeds) / len(of_seeds),
                "test": summarise(row_pairs(algorithm, "rl_answer" if agent == "answerer" else "rl_manager")),
            }
    return Table(
        name="curves",
        title="PPO against GRPO",
        question="Which of the two learns faster, and which ends higher?",
        rows=rows,
        notes=NOTES,
        figure=figures.curves(drawn, "reward", "mean reward of a step, moving average over seeds"),
    )
