"""The paper's reward design (its table 2): what the Answer Agent becomes when it is paid for something else than exact match."""

from paper import figures
from paper.ablation import agents
from paper.plan import SEEDS, Pair, Run, pair, run
from paper.scores import read_scores, summarise
from paper.table import Table

EXPERIMENT = "grpo_answer"
THEIRS = {"em": {"F1 / BLEU-1 / J": "41.0 / 32.9 / 57.5"}, "judge_like": {"F1 / BLEU-1 / J": "33.7 / 23.4 / 63.6"}}
NOTES = (
    "The paper pays by the verdict of a language model; here `judge_like` pays 1 for an answer that has all words of the gold answer, "
    "whatever else it says, which needs no judge and has its fault.",
    "em_then_f1 trains half of the steps with each reward.",
    "All of them read append-only banks in training and the start's banks here.",
)


def variants(seed: int) -> dict[str, list[Run]]:
    """Plans the runs of every reward; the last of each is the one that is scored."""
    half = run(EXPERIMENT, seed, "half", steps=60)
    return {
        "em": [agents("grpo", seed)["answerer"]],
        "f1": [run(EXPERIMENT, seed, "f1", reward="f1")],
        "em_then_f1": [half, run(EXPERIMENT, seed, "em_then_f1", after=[half], reward="f1", steps=60)],
        "judge_like": [run(EXPERIMENT, seed, "judge_like", reward="judge_like")],
    }


def row_pairs(reward: str) -> list[Pair]:
    return [pair(variants(seed)[reward][-1]) for seed in SEEDS]


def runs() -> list[Run]:
    return [each for seed in SEEDS for chain in variants(seed).values() for each in chain]


def pairs() -> list[Pair]:
    return [pair(), *(each for reward in variants(0) for each in row_pairs(reward))]


def make() -> Table:
    rows = {"start": {"scores": summarise([pair()])} | _lengths([pair()])}
    rows |= {reward: {"scores": summarise(row_pairs(reward))} | _lengths(row_pairs(reward)) for reward in variants(0)}
    return Table(
        name="rewards",
        title="Reward design",
        question="What does the Answer Agent become when it is paid for F1, or by a generous judge?",
        rows=rows,
        theirs=THEIRS,
        theirs_are="on LoCoMo, Llama-3.1-8B, PPO (arXiv 2508.19828, table 2)",
        notes=NOTES,
        figure=figures.bars({name: {"EM": row["scores"]} for name, row in rows.items()}, "EM on memdial's test split, percent"),
    )


def _lengths(of: list[Pair]) -> dict[str, float]:
    read = [read_scores(each) for each in of]
    return {
        "words an answer": sum(each.answer_words for each in read) / len(read),
        "tokens a response": sum(each.response_tokens for each in read) / len(read),
    }
