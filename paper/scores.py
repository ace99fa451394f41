"""What a pair of agents scores on memdial's test split, question by question, kept as a file; and means of these over seeds."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mr1jax import evaluate
from mr1jax.baselines.rows import baseline_rows
from mr1jax.config import Config
from mr1jax.data.datasets import read_split
from mr1jax.evaluate import METRICS, Row
from mr1jax.operation_accuracy import OperationAccuracy, operation_accuracy
from mr1jax.prepare import encode, load_start
from mr1jax.report import write_whole
from mr1jax.statistics import interval_of_seeds, paired_test
from paper.plan import DATA, RUNS, Accuracy, Pair, baseline_pair
from paper.table import holds

P_NOTE = "p: a sign-flip test over conversations of the same questions, so what was asked does not blur it; it holds for these seeds."
"""What a table says of the p of `compare`."""

_SEED = 0  # of the intervals


@dataclass(frozen=True)
class Scores:
    """Of Q questions in one order, the same for every pair: scores from 0 to 1 by metric, the conversation and the category of each.

    operations: applied while the banks were built, by kind; bank_fill, evidence_recall: from 0 to 1; response_tokens: of a response,
    answer_words: of an answer, both means.
    """

    scores: dict[str, list[float]]
    conversation: list[int]
    category: list[int]
    operations: dict[str, int]
    bank_fill: float
    evidence_recall: float | None
    response_tokens: float
    answer_words: float


def scores_path(item: Pair | Accuracy) -> Path:
    return RUNS / "scores" / f"{item.name}.json"


def score_pair(pair: Pair) -> None:
    """Builds the banks of the test split, asks every question, and keeps the scores."""
    records = read_split("memdial", "test", DATA)
    start = load_start(pair.config)
    conversations = encode(records, start)
    memories = evaluate.build_banks(start.params["manager"], conversations, start.language, start.config)
    row = evaluate.evaluate(start.params["answerer"], memories, conversations, start.language, start.config, seed=_SEED)
    write_whole(scores_path(pair), json.dumps(asdict(_scores(row))) + "\n")


def score_baselines() -> None:
    """Scores every baseline on the test split; Memory-SFT trains first, in a folder of its own among the runs."""
    records = read_split("memdial", "test", DATA)
    start = load_start(Config())
    rows = baseline_rows(start, encode(records, start), records, _SEED, RUNS / "memory_sft")
    for name, row in rows.items():
        write_whole(scores_path(baseline_pair(name)), json.dumps(asdict(_scores(row))) + "\n")


def score_accuracy(item: Accuracy) -> None:
    """Holds every operation of a Manager on the test split against the oracle's."""
    records = read_split("memdial", "test", DATA)
    start = load_start(item.config)
    found = operation_accuracy(start.params["manager"], encode(records, start), records, start.language, start.config)
    write_whole(scores_path(item), json.dumps(asdict(found)) + "\n")


def read_accuracy(item: Accuracy) -> OperationAccuracy:
    return OperationAccuracy(**json.loads(scores_path(item).read_text()))


def read_scores(pair: Pair) -> Scores:
    return Scores(**json.loads(scores_path(pair).read_text()))


def summarise(pairs: Sequence[Pair], category: int | None = None) -> dict[str, Any]:
    """Averages pairs that differ in their seed: em, f1, bleu1 in percent, `ci95` of each, and `seeds`, the means of each seed.

    category: of the questions that count; None for all of them.
    """
    read = [read_scores(pair) for pair in pairs]
    counts = np.asarray([category in (None, each) for each in read[0].category])
    clusters_Q = np.asarray(read[0].conversation)[counts]
    percent = {metric: 100 * np.asarray([each.scores[metric] for each in read])[:, counts] for metric in METRICS}
    return {metric: float(np.mean(scores)) for metric, scores in percent.items()} | {
        "ci95": {metric: list(interval_of_seeds(scores, clusters_Q, _SEED)) for metric, scores in percent.items()},
        "seeds": {metric: [float(np.mean(of_seed)) for of_seed in scores] for metric, scores in percent.items()},
        "questions": int(counts.sum()),
    }


def p_value(pairs: Sequence[Pair], others: Sequence[Pair]) -> float:
    """Tests whether two rows differ in exact match: on the same questions, each row's score of a question being its mean over seeds."""
    one, other = (np.mean([read_scores(pair).scores["em"] for pair in of], axis=0) for of in (pairs, others))
    return paired_test(one, other, read_scores(pairs[0]).conversation, _SEED)


def compare(lower: dict[str, Any], upper: dict[str, Any], lower_pairs: Sequence[Pair], upper_pairs: Sequence[Pair]) -> str:
    """Says of two rows whether the second is above the first in exact match: by their intervals, and in pairs of the same questions."""
    return f"{holds(lower, upper)}, p = {p_value(upper_pairs, lower_pairs):.2g}"


def _scores(row: Row) -> Scores:
    answers = row.answers
    return Scores(
        scores={metric: [answer.scores[metric] for answer in answers] for metric in METRICS},
        conversation=[answer.conversation for answer in answers],
        category=[answer.category for answer in answers],
        operations=row.operations,
        bank_fill=row.bank_fill,
        evidence_recall=row.evidence_recall,
        response_tokens=float(np.mean([answer.response_tokens for answer in answers])),
        answer_words=float(np.mean([len(answer.prediction.split()) for answer in answers])),
    )
