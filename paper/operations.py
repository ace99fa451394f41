"""What the Manager does, before and after: the share of each operation as it trains, and on the test split. The paper prints neither."""

from paper import figures
from paper.ablation import ALGORITHMS, agents, row_pairs
from paper.plan import SEEDS, Accuracy, Pair, Run, accuracy
from paper.scores import read_accuracy, read_scores
from paper.table import Table
from paper.training import logs, mean_of

KINDS = ("add", "update", "delete", "noop")


def runs() -> list[Run]:
    return [agents(algorithm, seed)["manager"] for seed in SEEDS for algorithm in ALGORITHMS]


def pairs() -> list[Pair | Accuracy]:
    scored = [each for algorithm in ALGORITHMS for row in ("base", "rl_manager") for each in row_pairs(algorithm, row)]
    return [*scored, *map(accuracy, scored)]


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
            "As the oracle: the share of facts with which the operation is the one that memdial's oracle, which knows what each fact "
            "replaces, would choose at that very bank; to the letter: also of the same memory, and word for word; then by kind of fact.",
        ),
        figure=figures.curves(drawn, "share", "share of decisions in training (GRPO), percent"),
    )


def _on_test(of: list[Pair]) -> dict[str, float]:
    read = [read_scores(each) for each in of]
    counts = {kind: sum(each.operations[kind] for each in read) for kind in KINDS}
    total = sum(counts.values())
    recall = sum(each.evidence_recall for each in read) / len(read)
    fill = sum(each.bank_fill for each in read) / len(read)
    found = [read_accuracy(accuracy(each)) for each in of]
    by_fact = {kind: sum(each.by_fact[kind] for each in found) / len(found) for kind in found[0].by_fact}
    return (
        {kind.upper(): 100 * count / total for kind, count in counts.items()}
        | {"bank fill": 100 * fill, "evidence shown": 100 * recall}
        | {"as the oracle": 100 * sum(each.kind for each in found) / len(found)}
        | {"to the letter": 100 * sum(each.to_the_letter for each in found) / len(found)}
        | {f"as the oracle, {kind}": 100 * share for kind, share in by_fact.items()}
    )
