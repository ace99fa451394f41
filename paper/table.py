"""A table of ours beside the paper's: as JSON, as CSV, and as cells for a page."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mr1jax.evaluate import METRICS
from mr1jax.report import with_interval, write_whole

OUT = Path("paper")  # where the results lie
TITLES = {"em": "EM", "f1": "F1", "bleu1": "BLEU-1"}


@dataclass(frozen=True)
class Table:
    """name: of its files; question: what it asks, in a sentence; rows: {row: {column: scores}}, scores as `summarise` gives them, or
    {row: {column: number or text}}; theirs: the paper's cells by the same names, and what they are; found: what came out, in sentences;
    notes: what differs from the paper; figure: a PNG.
    """

    name: str
    title: str
    question: str
    rows: dict[str, dict[str, Any]]
    theirs: dict[str, dict[str, str]] = field(default_factory=dict)
    theirs_are: str = ""
    found: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    figure: bytes | None = None


def write_table(table: Table, about: Mapping[str, Any]) -> None:
    """Writes `paper/<name>.json`, `.csv`, and `.png` where there is a figure. about: machine, commit and minutes."""
    values = {"title": table.title, "question": table.question, **about, "rows": table.rows}
    values |= {"paper": {"what": table.theirs_are, "rows": table.theirs}} if table.theirs else {}
    write_whole(OUT / f"{table.name}.json", json.dumps(values | {"found": table.found, "notes": table.notes}, indent=1) + "\n")
    write_whole(OUT / f"{table.name}.csv", as_csv(table))
    if table.figure:
        write_whole(OUT / f"{table.name}.png", table.figure)


def read_table(name: str) -> tuple[Table, dict[str, Any]] | None:
    """Reads what `write_table` wrote, and machine, commits and minutes; None where there is none."""
    path = OUT / f"{name}.json"
    if not path.is_file():
        return None
    values = json.loads(path.read_text())
    theirs, png = values.get("paper", {"what": "", "rows": {}}), OUT / f"{name}.png"
    table = Table(
        name,
        values["title"],
        values["question"],
        values["rows"],
        theirs["rows"],
        theirs["what"],
        tuple(values["found"]),
        tuple(values["notes"]),
        png.read_bytes() if png.is_file() else None,
    )
    return table, {key: values[key] for key in ("machine", "commits", "minutes")}


def as_csv(table: Table) -> str:
    """Lays a table out a line a cell: row, column, metric, value, low, high."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(("row", "column", "metric", "value", "low", "high"))
    for row, columns in table.rows.items():
        for column, cell in columns.items():
            if isinstance(cell, Mapping):
                writer.writerows(
                    (row, column, metric, f"{cell[metric]:.3f}", *(f"{x:.3f}" for x in cell["ci95"][metric])) for metric in METRICS
                )
            else:
                writer.writerow((row, column, "", cell, "", ""))
    return lines.getvalue()


def cells(table: Table) -> tuple[list[str], list[list[str]]]:
    """Returns the header and the lines that a reader sees: every score with its interval, the paper's cell behind."""
    columns = list(dict.fromkeys(column for row in table.rows.values() for column in row))
    scored = [column for column in columns if any(isinstance(row.get(column), Mapping) for row in table.rows.values())]
    header = [""]
    for column in columns:
        header += [f"{column} {TITLES[metric]}".strip() for metric in METRICS] if column in scored else [column]
    their_columns = list(dict.fromkeys(column for row in table.theirs.values() for column in row))
    header += [f"paper: {column}" for column in their_columns]
    lines = []
    for name, row in table.rows.items():
        shown = [text for column in columns for text in _shown(row.get(column), column in scored)]
        lines.append([name.replace("_", " "), *shown, *(table.theirs.get(name, {}).get(column, "") for column in their_columns)])
    return header, lines


def _shown(cell: Any, is_scored: bool) -> list[str]:
    if is_scored:
        return [with_interval(cell[metric], cell["ci95"][metric]) for metric in METRICS] if cell else [""] * len(METRICS)
    return [f"{cell:.2f}" if isinstance(cell, float) else "" if cell is None else str(cell)]


def holds(lower: Mapping[str, Any], upper: Mapping[str, Any], metric: str = "em") -> str:
    """Says of two cells whether the second is above the first, and whether their intervals touch."""
    if lower["ci95"][metric][1] < upper["ci95"][metric][0]:
        return "above, intervals apart"
    return "above, intervals overlap" if lower[metric] < upper[metric] else "not above"


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Lays a table out for README.md."""
    ruler = ["---", *["--:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(each)} |" for each in (header, ruler, *lines))
