"""The paper's main table (its table 1): both trained agents against other ways to keep a memory, by kind of question."""

from mr1jax.baselines.rows import NOTES
from mr1jax.data.memdial.world import CATEGORIES
from paper import ablation, figures
from paper.plan import Baselines, Pair, Run, baseline_pair
from paper.scores import summarise
from paper.table import Table

COLUMN = "F1 / BLEU-1 / J"
THEIRS = {
    "rag_turns": {COLUMN: "11.4 / 8.7 / 13.6"},
    "amem_like": {COLUMN: "29.2 / 24.4 / 44.8"},
    "mem0_like": {COLUMN: "30.4 / 22.2 / 45.7"},
    "memoryos_like": {COLUMN: "35.0 / 28.0 / 48.2"},
    "memory_sft": {COLUMN: "42.8 / 33.0 / 58.8"},
    "memory_r1_ppo": {COLUMN: "41.0 / 32.9 / 57.5"},
    "memory_r1_grpo": {COLUMN: "45.0 / 37.5 / 62.7"},
}


def runs() -> list[Run]:
    return [each for each in ablation.runs() if each.config.distill]


def pairs() -> list[Pair | Baselines]:
    return [Baselines(), *(each for algorithm in ablation.ALGORITHMS for each in ablation.row_pairs(algorithm, "full"))]


def make() -> Table:
    of = {name: [baseline_pair(name)] for name in NOTES}
    of |= {f"memory_r1_{algorithm}": ablation.row_pairs(algorithm, "full") for algorithm in ablation.ALGORITHMS[::-1]}
    rows = {}
    for name, row in of.items():
        by_kind = {f"EM, {kind}": summarise(row, number)["em"] for number, kind in CATEGORIES.items()}
        rows[name] = {"overall": summarise(row)} | by_kind
    return Table(
        name="main",
        title="Against other memories",
        question="How do the trained agents compare with other ways to keep a memory, read by the same model?",
        rows=rows,
        theirs=THEIRS,
        theirs_are="LoCoMo, Llama-3.1-8B (arXiv 2508.19828, table 1)",
        notes=(
            *(f"{name.replace('_', ' ')}: {note}." for name, note in NOTES.items()),
            "These are the mechanisms, not the products. The reader is the start's Answer Agent, but for Memory-SFT and Memory-R1, which "
            "train their own. Prompts and bank have one size wherever a row does not say otherwise.",
            "Rows that nothing random is in have one seed; their intervals are over conversations alone.",
        ),
        figure=figures.bars({name: {"EM": row["overall"]} for name, row in rows.items()}, "EM on memdial's test split, percent"),
    )
