"""The table of LoCoMo beside the paper's: F1 and BLEU-1 by category under both naming schemes, and J where a judge was asked."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mr1jax.category_report import judge_section, means, write_category_report
from mr1jax.data.locomo import paper
from mr1jax.data.locomo.source import SHA256
from mr1jax.evaluate import Answer, Row
from mr1jax.report import align
from mr1jax.text.metrics import f1_locomo

CATEGORIES = tuple(paper.LABELS["locomo"])


def print_locomo(rows: Mapping[str, Row]) -> None:
    """Prints our rows and the paper's, by category number with its name under either scheme, and the recall of the retrieval."""
    print(format_locomo(rows))


def format_locomo(rows: Mapping[str, Row]) -> str:
    """Lays out what `print_locomo` prints. All rows are of the same questions."""
    answers = next(iter(rows.values())).answers
    tables = {name: by_category(row) for name, row in rows.items()}
    counts = [sum(answer.category == category for answer in answers) for category in CATEGORIES]
    heads = [
        ["category", *map(str, CATEGORIES), "all"],
        ["as LoCoMo names it", *paper.LABELS["locomo"].values(), ""],
        ["as Mem0 and the paper name it", *paper.LABELS["mem0"].values(), ""],
        ["questions", *map(str, counts), str(len(answers))],
    ]
    lines = [
        *heads,
        [""] * (len(CATEGORIES) + 2),
        *(_our_line(name, table) for name, table in tables.items()),
        *(_paper_line(row) for row in paper.TABLE_1),
    ]
    recalls = (f"  {name}: {_or_dash(row.evidence_recall)}" for name, row in rows.items())
    judged = {_called(row): {str(number): j for number, j in row.judge.items()} | {"all": row.overall_judge} for row in paper.TABLE_1}
    stemmed = (f"  {name}: {table['all']['f1_locomo']:.2f}" for name, table in tables.items())
    return "\n".join(
        [
            "F1 / BLEU-1 in percent, as Mem0 and the paper compute them; below ours, the paper's own rows (arXiv 2508.19828, Table 1).",
            "",
            align(lines),
            "",
            "Evidence recall in percent: the share of a question's evidence that was shown word for word",
            *recalls,
            "F1 in percent as LoCoMo computes it, over stemmed words",
            *stemmed,
            *(f"\n{paragraph}" for paragraph in judge_section(heads, rows, tables, judged)),
        ]
    )


def by_category(row: Row) -> dict[str, dict[str, Any]]:
    """Averages a row's scores over the questions of each category, keyed by its number as text, and over "all", in percent.

    A category without a question has only "questions": 0 and its names.
    """
    table = {}
    for category in CATEGORIES:
        names = {scheme: labels[category] for scheme, labels in paper.LABELS.items()}
        table[str(category)] = {**names, **means([answer for answer in row.answers if answer.category == category], _scores)}
    return table | {"all": means(row.answers, _scores)}


def write_locomo_report(
    folder: Path,
    rows: Mapping[str, Row],
    conversations: Sequence[str],
    *,
    facts: str,
    captions: bool,
    retrieval: str,
    seed: int,
    seconds: float,
    compilations: int,
    p_value: float,
) -> None:
    """Writes `report.json` and, for each row, what `report.write_answers` does, in the order of the file.

    conversations: their ids; facts, captions: which configuration of the data set was read; retrieval: how memories were found;
    p_value: of the last row.
    """
    about = {"seed": seed, "seconds": seconds, "compilations": compilations, "p_value": p_value, "dataset_sha256": SHA256}
    about |= {"facts": facts, "captions": captions, "retrieval": retrieval}
    tables = {name: by_category(row) for name, row in rows.items()}
    write_category_report(folder, rows, tables, conversations, _scores, about)


def _scores(answer: Answer) -> dict[str, float]:
    return answer.scores | {"f1_locomo": f1_locomo(answer.prediction, answer.gold, answer.category)}


def _our_line(name: str, table: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [name, *(_cell(entry["f1"], entry["bleu1"]) if entry["questions"] else "-" for entry in table.values())]


def _paper_line(row: paper.Row) -> list[str]:
    cells = [_cell(row.f1[category], row.bleu1[category]) for category in CATEGORIES]
    return [_called(row), *cells, _cell(row.overall_f1, row.overall_bleu1)]


def _called(row: paper.Row) -> str:
    return f"paper: {row.method}, {row.backbone}"


def _cell(f1: float, bleu1: float) -> str:
    return f"{f1:.2f} / {bleu1:.2f}"


def _or_dash(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"
