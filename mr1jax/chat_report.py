"""The tables of LongMemEval and MSC-Self-Instruct: every score by kind of question, the paper's own rows below where it has any."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mr1jax.category_report import judge_section, means, score_table, write_category_report
from mr1jax.data.longmemeval.paper import TABLE_4, TABLE_5
from mr1jax.data.longmemeval.paper import Row as PaperRow
from mr1jax.data.longmemeval.reader import TYPES, UNANSWERABLE
from mr1jax.data.msc.reader import CATEGORIES
from mr1jax.evaluate import Answer, Row

_TITLES = {
    "f1": "F1 in percent, as Mem0 and the paper compute it",
    "bleu1": "BLEU-1 in percent, as Mem0 and the paper compute it",
    "em": "Exact match in percent, once case, punctuation and articles are gone",
}

_OF_THE_PAPER = (
    "The paper's rows: arXiv 2508.19828, Tables 4 and 5, trained on LoCoMo alone; it names neither its judge nor its release of the data."
)


@dataclass(frozen=True)
class Kinds:
    """The columns of a data set: under a name, the category numbers that count there. paper: its rows, by what they are called."""

    categories: Mapping[str, frozenset[int]]
    paper: Sequence[PaperRow] = ()

    def figures(self, metric: str) -> dict[str, dict[str, float]]:
        """The paper's rows of one score, {row: {column: percent}}."""
        named = dict(enumerate(TYPES, 1))
        return {
            f"paper: {row.method}, {row.backbone}": {str(named.get(key, key)): value for key, value in getattr(row, metric).items()}
            for row in self.paper
        }


LONGMEMEVAL = Kinds(
    {kind: frozenset((number, number + UNANSWERABLE)) for number, kind in enumerate(TYPES, 1)}
    | {"never said": frozenset(range(UNANSWERABLE + 1, 2 * UNANSWERABLE + 1))},  # they count in their type too, as in the paper
    (*TABLE_4, *TABLE_5),
)
MSC = Kinds({name: frozenset((number,)) for number, name in CATEGORIES.items()})


def by_kind(row: Row, kinds: Kinds) -> dict[str, dict[str, Any]]:
    """Averages a row's scores, in percent, over the questions of each column, and over "all". One without a question has "questions": 0."""
    table = {
        name: means([answer for answer in row.answers if answer.category in numbers], _scores) for name, numbers in kinds.categories.items()
    }
    return table | {"all": means(row.answers, _scores)}


def format_chat(rows: Mapping[str, Row], kinds: Kinds) -> str:
    """Lays out one table a score: F1, BLEU-1, exact match, and J by both prompts where a judge was asked."""
    tables = {name: by_kind(row, kinds) for name, row in rows.items()}
    first = next(iter(tables.values()))
    halves = [name.replace(" ", "-").rpartition("-") for name in first]  # long names on two lines
    heads = [["", *(half[0] for half in halves)], ["", *(half[2] for half in halves)]]
    heads.append(["questions", *(str(entry["questions"]) for entry in first.values())])
    paragraphs = []
    for metric, title in _TITLES.items():
        figures = {} if metric == "em" else kinds.figures(metric)  # of which the paper reports none
        paragraphs += [title, score_table(metric, heads, rows, tables, figures)]
    paragraphs += judge_section(heads, rows, tables, kinds.figures("judge"))
    if kinds.paper:
        paragraphs.append(_OF_THE_PAPER)
    return "\n\n".join(paragraphs)


def write_chat_report(folder: Path, rows: Mapping[str, Row], kinds: Kinds, conversations: Sequence[str], about: Mapping[str, Any]) -> None:
    """Writes `report.json` and the answers of each row; see `write_category_report`."""
    write_category_report(folder, rows, {name: by_kind(row, kinds) for name, row in rows.items()}, conversations, _scores, about)


def _scores(answer: Answer) -> dict[str, float]:
    return answer.scores
