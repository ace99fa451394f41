"""How far the reward is from the operation that it judges: at once, four turns later, or at the end of a conversation."""

from paper import figures
from paper.ablation import agents
from paper.alternation import phases
from paper.plan import SEEDS, Pair, Run, pair, run
from paper.scores import P_NOTE, compare, read_scores, summarise
from paper.table import Table
from paper.training import logs, mean_of

AT_ONCE, LONGER, BRANCH, INDEPENDENT, REPLAY, CURRICULUM = (
    "at once",
    "at once, twice as long",
    "four turns later",
    "at once, each member at a bank of its own",
    "replay from an empty bank",
    "replay, short conversations first",
)
EXPERIMENTS = {BRANCH: "grpo_manager_branch4", INDEPENDENT: "grpo_manager_independent", REPLAY: "grpo_manager_replay"}
NAMES = (AT_ONCE, LONGER, *EXPERIMENTS, CURRICULUM)
FIRST = 10  # steps


def row_runs(name: str) -> list[list[Run]]:
    """Plans the runs of one row: for each seed a chain, whose last is scored."""
    if name == AT_ONCE:
        return [[agents("grpo", seed)["manager"]] for seed in SEEDS]
    if name == LONGER:
        return [[phases(seed)["first"], phases(seed)["control"]] for seed in SEEDS]
    if name != CURRICULUM:
        return [[run(EXPERIMENTS[name], seed)] for seed in SEEDS]
    chains = []
    for seed in SEEDS:
        short = run("grpo_manager_short", seed)
        chains.append([short, run("grpo_manager_long", seed, after=[short])])
    return chains


def row_pairs(name: str) -> list[Pair]:
    return [pair(chain[-1]) for chain in row_runs(name)]


def runs() -> list[Run]:
    return [each for name in NAMES for chain in row_runs(name) for each in chain]


def pairs() -> list[Pair]:
    return [pair(), *(each for name in NAMES for each in row_pairs(name))]


def make() -> Table:
    rows: dict = {"start": {"scores": summarise([pair()])}}
    for name in NAMES:
        chains = row_runs(name)
        first = logs([chain[0] for chain in chains])
        every = [record for chain in chains for log in logs(chain) for record in log]
        rows[name] = {
            "scores": summarise(row_pairs(name)),
            "spread of a group's rewards at first": sum(mean_of(log[:FIRST], "reward_std") for log in first) / len(first),
            "dead groups at first, percent": 100 * sum(mean_of(log[:FIRST], "dead_groups") for log in first) / len(first),
            "steps": len(every) / len(chains),
            "minutes": sum(record["seconds"] for record in every) / len(chains) / 60,
            "UPDATE, percent": _share(row_pairs(name), "update"),
            "NOOP, percent": _share(row_pairs(name), "noop"),
        }
    return Table(
        name="credit",
        title="Credit of the Manager",
        question="Is an operation better judged at once, some turns later, or at the end of a conversation?",
        rows=rows,
        found=(_told(rows),),
        notes=(
            "The paper describes both ends: one operation at a prebuilt bank (its equation 3), and a replay from empty with one reward at "
            "the end (its algorithm 5). They differ here in `horizon` alone: how many turns are played after the branch.",
            "Runs are of about equal time on a quiet core, four to five minutes, not of equal steps: what is played on costs a prompt a "
            "turn and member. `at once` alone has half of that. The minutes are of cores that other work shared.",
            P_NOTE,
            f"At first: the first {FIRST} steps. A dead group is one whose rewards are all equal.",
            "A bank of its own: each member plays eight turns before the one that is judged (arXiv 2605.21768 objects to such groups).",
        ),
        figure=figures.bars({name: {"EM": row["scores"]} for name, row in rows.items()}, "EM on memdial's test split, percent"),
    )


def _told(rows: dict) -> str:
    longer, others = row_pairs(LONGER), [name for name in NAMES if name != LONGER]
    told = [f"{name}: {compare(rows[LONGER]['scores'], rows[name]['scores'], longer, row_pairs(name))}" for name in others]
    return f"Against {LONGER}, by EM: {'; '.join(told)}."


def _share(of: list[Pair], kind: str) -> float:
    counts = [read_scores(each).operations for each in of]
    kinds = ("add", "update", "delete", "noop")
    return 100 * sum(each[kind] for each in counts) / sum(each[k] for each in counts for k in kinds)
