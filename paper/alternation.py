"""Does it pay to train each agent beside its trained partner? The paper speaks of alternating phases and gives no number of them."""

from paper import figures
from paper.ablation import agents
from paper.plan import SEEDS, Pair, Run, pair, run
from paper.scores import P_NOTE, compare, summarise
from paper.table import Table

APART = "each beside the start"
READS = "the Answer Agent at its Manager's banks"
ALTERNATED = "then the Manager again, beside that Answer Agent"
CONTROL = "or the Manager again, beside the start's"
NAMES = (APART, READS, ALTERNATED, CONTROL)


def phases(seed: int) -> dict[str, Run]:
    """Plans the phases of one seed: each starts from the agents of those before it."""
    first = agents("grpo", seed)["manager"]
    reader = run("grpo_answer", seed, "managed", after=[first], banks_by="manager")
    return {
        "first": first,
        "reader": reader,
        "again": run("grpo_manager", seed, "alternated", after=[first, reader]),
        "control": run("grpo_manager", seed, "continued", after=[first]),
    }


def row_pairs(name: str) -> list[Pair]:
    def of(seed: int) -> Pair:
        trained = phases(seed)
        apart = agents("grpo", seed)
        return {
            APART: pair(apart["manager"], apart["answerer"]),
            READS: pair(trained["first"], trained["reader"]),
            ALTERNATED: pair(trained["again"], trained["reader"]),
            CONTROL: pair(trained["control"], trained["reader"]),
        }[name]

    return [of(seed) for seed in SEEDS]


def runs() -> list[Run]:
    return [each for seed in SEEDS for each in (*phases(seed).values(), agents("grpo", seed)["answerer"])]


def pairs() -> list[Pair]:
    return [pair(), *(each for name in NAMES for each in row_pairs(name))]


def _step(rows: dict, lower: str, upper: str) -> str:
    compared = compare(rows[lower]["scores"], rows[upper]["scores"], row_pairs(lower), row_pairs(upper))
    return f"{upper}, against {lower}: {compared}"


def make() -> Table:
    rows: dict = {"start": {"scores": summarise([pair()])}} | {name: {"scores": summarise(row_pairs(name))} for name in NAMES}
    steps = ((APART, READS), (READS, ALTERNATED), (CONTROL, ALTERNATED))
    return Table(
        name="alternation",
        title="Alternation",
        question="Is an agent better that was trained beside its trained partner?",
        rows=rows,
        found=("By EM: " + "; ".join(_step(rows, *step) for step in steps) + ".",),
        notes=(
            "All by GRPO, 120 steps of the Answer Agent and 90 of the Manager a phase. The last two rows train the Manager twice as long.",
            "Each beside the start: the Answer Agent is trained at banks that forgot nothing, the Manager beside the start's Answer Agent; "
            "it is `full` of the ablation.",
            P_NOTE,
        ),
        figure=figures.bars({name: {"EM": row["scores"]} for name, row in rows.items()}, "EM on memdial's test split, percent"),
    )
