"""What the Manager does, before and after: the share of each operation as it trains, and on the test split. The paper prints neither."""

from paper import figures
from paper.ablation import ALGORITHMS, agents, row_pairs
from paper.plan import SEEDS, Pair, Run
from paper.scores import read_scores
from paper.table import Table
from paper.training import logs, mean_of

KINDS = ("add", "update", "delete", "noop")


def runs() -> list[Run]:
    return [agents(algorithm, seed)["manager"] for seed in SEEDS for algorithm in ALGORITHMS]


def pairs() -> list[Pair]:
    return [each for algorithm in ALGORITHMS for row in ("base", "rl_manager") for each in row_pairs(algorithm, row)]


def make() -> Table:
    rows = {"start, test split": _on_test(row_pairs("grpo", "base"))}
    for algorithm in ALGORITHMS:
        found = logs([agents(algorithm, seed)["manager"] for seed in SEEDS])
        for when, part in (("first", slice(10)), ("last", slice(-10, None))):
            shares = {kind: sum(mean_of(log[part], f"share_{kind}") for log in found) / len(found) for kind in KINDS}
            rows[f"{algorithm.upper()}, {when} ten steps"] = {kind.upper(): 100 * share for kind, share in shares.items()}
        rows[f"{algorithm.upper()}, test split"] = _on_test(row_pairs(algorithm, "rl_manager"))
    managers = logs([agents("grpo", seed)["manager"] for seed in SEEDS])
    drawn = {kind.upper(): [[{"step": r["step"], "share": 100 * r[f"share_{kind}"]} for r in log] for log in managers] for kind in KINDS}
    return Table(
        name="operations",
        title="Operations",
        question="Which operations does the trained Manager choose, in percent of decisions?",
        rows=rows,
        notes=(
            "Training states are of three kinds, a third each, and responses are sampled; on the test split whole conversations are "
            "replayed from an empty bank and decisions are greedy. So the two differ before any training.",
            "DELETE with ADD in one response counts as both.",
        ),
        figure=figures.curves(drawn, "share", "share of decisions in training (GRPO), percent"),
    )


def _on_test(of: list[Pair]) -> dict[str, float]:
    read = [read_scores(each) for each in of]
    counts = {kind: sum(each.operations[kind] for each in read) for kind in KINDS}
    total = sum(counts.values())
    recall = sum(each.evidence_recall for each in read) / len(read)
    fill = sum(each.bank_fill for each in read) / len(read)
    return {kind.upper(): 100 * count / total for kind, count in counts.items()} | {"bank fill": 100 * fill, "evidence shown": 100 * recall}
