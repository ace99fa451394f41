"""What the reports of LoCoMo, LongMemEval and MSC share: means by category, tables of one score, J, and the files.

Overall figures are means over all questions, as the paper's are. Scores are in percent here, from 0 to 1 in the lines of answers.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mr1jax.evaluate import Answer, Row
from mr1jax.judge import METRICS, judge_of
from mr1jax.report import REPORT, align, answer_as_json, row_as_json, write_answers, write_whole

ScoresOf = Callable[[Answer], dict[str, float]]
Tables = Mapping[str, Mapping[str, Mapping[str, Any]]]  # {row: {category: its means}}, the last category being "all"


def means(answers: Sequence[Answer], scores_of: ScoresOf) -> dict[str, Any]:
    """Averages scores over answers: {"questions": how many, score: percent, "evidence_recall": percent where there is evidence}."""
    scores = [scores_of(answer) for answer in answers]
    names = scores[0] if scores else ()
    recalls = [answer.evidence_recall for answer in answers if answer.evidence_recall is not None]
    recall = {"evidence_recall": 100 * float(np.mean(recalls))} if recalls else {}
    return {"questions": len(answers)} | {name: 100 * float(np.mean([each[name] for each in scores])) for name in names} | recall


def score_table(
    metric: str,
    heads: Sequence[Sequence[str]],
    rows: Mapping[str, Row],
    tables: Tables,
    paper: Mapping[str, Mapping[str, float]] | None = None,
) -> str:
    """Lays out one score: a line a row, a column a category, and at the end the interval of all.

    heads: the lines above, one cell for the names of rows and one a category; paper: rows that are not ours, by name, {category: percent}
    as far as they have one.
    """
    categories = list(next(iter(tables.values())))
    lines = [[*head, "95 % interval" if place == 0 else ""] for place, head in enumerate(heads)]
    for name, table in tables.items():
        low, high = rows[name].ci95[metric]
        lines.append([name, *(_cell(table[category].get(metric)) for category in categories), f"[{low:.1f}, {high:.1f}]"])
    for name, figures in (paper or {}).items():
        lines.append([name, *(_cell(figures.get(category)) for category in categories), ""])
    return align(lines)


def judge_section(
    heads: Sequence[Sequence[str]], rows: Mapping[str, Row], tables: Tables, paper: Mapping[str, Mapping[str, float]] | None = None
) -> list[str]:
    """Returns the paragraphs about J, none where nobody was asked; raises ValueError where the rows were not judged by one.

    paper: rows of the paper's own judge, which was generous.
    """
    name = judge_of(rows)
    if not name:
        return []
    judged = {row_name: row.judged for row_name, row in rows.items() if row.judged}
    generous, strict = METRICS
    spoilt = "; ".join(
        f"{row_name}: " + ", ".join(f"{count} {kind}" for kind, count in each.garbage.items()) for row_name, each in judged.items()
    )
    return [
        f"J in percent, judged by {name}. Replies that were no verdict, and count as wrong: {spoilt}.",
        "J, generous prompt",
        score_table(generous, heads, rows, tables, paper),
        "J, strict prompt",
        score_table(strict, heads, rows, tables),
    ]


def write_category_report(
    folder: Path, rows: Mapping[str, Row], tables: Tables, conversations: Sequence[str], scores_of: ScoresOf, about: Mapping[str, Any]
) -> None:
    """Writes `report.json` and, for each row, what `report.write_answers` does, in the order of the file.

    conversations: their ids; about: what was read and how, for the head of the report. Raises ValueError where the rows were not judged
    by one judge.
    """
    answers = next(iter(rows.values())).answers
    report = {
        "questions": len(answers),
        "duplicates": count_duplicates(answers),
        **about,
        "judge": judge_of(rows) or None,
        "rows": {name: {**tables[name]["all"], **row_as_json(row)} for name, row in rows.items()},
        "by_category": tables,
    }
    write_answers(folder, rows, conversations, lambda answer, conversation: answer_as_json(answer, conversation) | scores_of(answer))
    write_whole(folder / REPORT, json.dumps(report, indent=2, allow_nan=False) + "\n")


def count_duplicates(answers: Sequence[Answer]) -> int:
    """Counts the questions that repeat an earlier one of their conversation word for word, gold answer included."""
    return len(answers) - len({(answer.conversation, answer.question, answer.gold) for answer in answers})


def _cell(percent: float | None) -> str:
    return "-" if percent is None else f"{percent:.1f}"
