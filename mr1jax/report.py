"""What a run reached, for people and for programs: the table, `report.md`, `report.json` and `curves.png`.

Nothing here computes a score: rows come from `evaluate`. A file appears under its name only complete.
"""

import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mr1jax.evaluate import METRICS, OPERATIONS, Answer, Row

BASELINE = "warm_start"  # what a report compares its last row with, the most trained
OWN_ROW = {"manager": "rl_manager", "answerer": "rl_answer"}  # of a trained agent, the other being the warm start's
REPORT = "report.json"
ANSWERS, BANKS = "answers_{}.jsonl", "banks_{}.jsonl"  # of a row

_HEADER = ("", "EM", "F1", "BLEU-1", "ADD", "UPDATE", "DELETE", "NOOP", "bank fill")

_NUM_EXAMPLES = 3  # of each kind
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9")  # Okabe and Ito: told apart with any colour vision
_SMOOTH_SHARE = 0.15  # of a curve: how wide the window is that a line averages over


def print_table(rows: Mapping[str, Row]) -> None:
    """Prints one aligned line a row: scores in percent with their 95 % intervals, operations, and how full the banks are."""
    print(format_table(rows))


def format_table(rows: Mapping[str, Row]) -> str:
    """Lays the rows out in aligned columns."""
    return align([_HEADER, *_cells(rows)])


def align(lines: Sequence[Sequence[str]]) -> str:
    """Lays lines of cells out in columns two spaces apart, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    laid_out = (
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )
    return "\n".join(line.rstrip() for line in laid_out)


def row_as_json(row: Row) -> dict[str, Any]:
    """Returns all of a row but its answers: em, f1 and bleu1 in percent, ci95, operations, bank_fill, evidence_recall; what was judged."""
    judged = {**row.judged.means, "garbage": row.judged.garbage} if row.judged else {}
    return judged | {
        "em": row.em,
        "f1": row.f1,
        "bleu1": row.bleu1,
        "ci95": {metric: list(interval) for metric, interval in row.ci95.items()},
        "operations": row.operations,
        "bank_fill": row.bank_fill,
        "evidence_recall": row.evidence_recall,
    }


def row_from_json(values: Mapping[str, Any]) -> Row:
    """Returns the row that `row_as_json` wrote, without answers and banks; raises KeyError, TypeError or ValueError for anything else."""
    return Row(
        em=float(values["em"]),
        f1=float(values["f1"]),
        bleu1=float(values["bleu1"]),
        ci95={metric: (float(values["ci95"][metric][0]), float(values["ci95"][metric][1])) for metric in METRICS},
        operations={kind: int(values["operations"][kind]) for kind in OPERATIONS},
        bank_fill=float(values["bank_fill"]),
        evidence_recall=None if values["evidence_recall"] is None else float(values["evidence_recall"]),
        answers=(),
    )


def answer_as_json(answer: Answer, conversation: str) -> dict[str, Any]:
    """Returns the line of one question to a conversation of this id, with every score from 0 to 1."""
    return {
        "id": f"{conversation}/{answer.number}",
        "conversation": conversation,
        "category": answer.category,
        "question": answer.question,
        "gold": answer.gold,
        "prediction": answer.prediction,
        "response": answer.response,
        "memories": list(answer.memories),
        "evidence": list(answer.evidence),
        "evidence_recall": answer.evidence_recall,
        **answer.scores,
    }


def write_answers(
    folder: Path,
    rows: Mapping[str, Row],
    conversations: Sequence[str],
    as_json: Callable[[Answer, str], dict[str, Any]] = answer_as_json,
) -> None:
    """Writes for each row `answers_<row>.jsonl`, a line a question, and `banks_<row>.jsonl`, a line a conversation, in their order.

    conversations: their ids; as_json: what the line of a question holds.
    """
    for name, row in rows.items():
        answers = [as_json(answer, conversations[answer.conversation]) for answer in row.answers]
        banks = [{"conversation": id, "memories": list(bank)} for id, bank in zip(conversations, row.banks, strict=True)]
        for file, values in ((ANSWERS, answers), (BANKS, banks)):
            lines = (json.dumps(value, ensure_ascii=False) for value in values)
            write_whole(folder / file.format(name), "".join(f"{line}\n" for line in lines))


def write_report(
    folder: Path,
    rows: Mapping[str, Row],
    *,
    about: str,
    categories: Mapping[int, str],
    seed: int,
    seconds: float,
    compilations: int,
    p_value: float,
) -> None:
    """Writes `report.md` and `report.json` into `folder`.

    rows: BASELINE among them and the most trained one last, all of the same questions; about: Markdown that says what was trained and how;
    categories: their names; p_value: of the last row against BASELINE. `curves.png` is shown where it is there already.
    """
    trained = most_trained(rows)
    questions = len(rows[trained].answers)
    report = {
        "questions": questions,
        "seed": seed,
        "seconds": seconds,
        "compilations": compilations,
        "p_value": p_value,
        "rows": {name: row_as_json(row) for name, row in rows.items()},
    }
    sections = [
        f"# Report\n\n{about.strip()}",
        _result_section(rows, p_value, f"{questions} questions, seed {seed}, {seconds:.0f} seconds, {compilations} compilations"),
        "## Learning curves\n\n![Reward against training step](curves.png)" if (folder / "curves.png").exists() else "",
        _category_section(rows, categories),
        _examples_section(trained, rows[BASELINE].answers, rows[trained].answers),
    ]
    write_whole(folder / REPORT, json.dumps(report, indent=2, allow_nan=False) + "\n")
    write_whole(folder / "report.md", "\n\n".join(filter(None, sections)) + "\n")


def most_trained(rows: Mapping[str, Row]) -> str:
    """Returns the name of the row that a report is about: the last."""
    return list(rows)[-1]


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file that appears under its name only complete: to a file beside it first, which then takes its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(part, path)


def draw_curves(path: Path, curves: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    """Draws the mean reward of each trained agent against its training step: every step as a faint point, a moving average as a line.

    curves: {name: [(step, reward), ...]}, rewards from 0 to 1.
    """
    from matplotlib.figure import Figure  # not pyplot: no window system, no global state; here, because it takes a second to import

    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    for (name, points), colour in zip(curves.items(), COLOURS, strict=False):
        step_N, reward_N = np.asarray(points, np.float64).T
        axes.plot(step_N, reward_N, "o", color=colour, alpha=0.25, markersize=4, markeredgewidth=0)
        axes.plot(step_N, moving_average(reward_N), color=colour, linewidth=2.5, label=name)
    axes.set_xlabel("training step", fontsize=13)
    axes.set_ylabel("mean reward of a step\n(share of exact matches)", fontsize=13)
    axes.set_ylim(0, 1)
    axes.tick_params(labelsize=12)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=12, frameon=False, loc="best")
    png = io.BytesIO()
    figure.savefig(png, format="png")
    write_whole(path, png.getvalue())


def moving_average(values_N: np.ndarray) -> np.ndarray:
    """Averages over a centred window of odd width, about a seventh of the curve; over the part of it that there is towards the ends."""
    half = int(_SMOOTH_SHARE * values_N.size / 2)
    return np.array([np.mean(values_N[max(0, n - half) : n + half + 1]) for n in range(values_N.size)])


def _cells(rows: Mapping[str, Row]) -> list[list[str]]:
    return [
        [
            name,
            *(with_interval(getattr(row, metric), row.ci95[metric]) for metric in ("em", "f1", "bleu1")),
            *(str(row.operations[kind]) for kind in ("add", "update", "delete", "noop")),
            f"{row.bank_fill:.0%}",
        ]
        for name, row in rows.items()
    ]


def with_interval(percent: float, interval: tuple[float, float]) -> str:
    """Writes a score in percent with its interval behind it."""
    return f"{percent:.1f} [{interval[0]:.1f}, {interval[1]:.1f}]"


def _markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    ruler = ["---", *["--:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ruler, *lines))


def _result_section(rows: Mapping[str, Row], p_value: float, run: str) -> str:
    trained = most_trained(rows)
    gain = rows[trained].em - rows[BASELINE].em
    return "\n\n".join(
        [
            "## Result",
            "Percent, with 95 % intervals from drawing whole conversations again. EM: the answer equals the gold one once case, "
            "punctuation and articles are gone. F1, BLEU-1: words shared with the gold answer, as Mem0's harness computes them. Then "
            "what built the banks: how often each operation was applied, and the share of their slots in use at the end.",
            _markdown_table(_HEADER, _cells(rows)),
            f"`{trained}` is {abs(gain):.1f} EM points {'above' if gain >= 0 else 'below'} `{BASELINE}`, p = {p_value:.2g} (two-sided "
            f"sign-flip test over conversations). {run}.",
        ]
    )


def _category_section(rows: Mapping[str, Row], categories: Mapping[int, str]) -> str:
    answers = rows[BASELINE].answers
    present = sorted({answer.category for answer in answers})
    count = {category: sum(answer.category == category for answer in answers) for category in present}
    header = ["EM in percent", *(f"{categories[category]} ({count[category]})" for category in present)]
    lines = []
    for name, row in rows.items():
        scores = {c: [answer.scores["em"] for answer in row.answers if answer.category == c] for c in present}
        lines.append([name, *(f"{100 * np.mean(scores[category]):.1f}" for category in present)])
    return f"## By kind of question\n\n{_markdown_table(header, lines)}"


def _examples_section(trained: str, before: Sequence[Answer], after: Sequence[Answer]) -> str:
    """Shows the questions on which training gained most, and those on which it gained least or lost."""
    pairs = list(zip(before, after, strict=True))
    by_gain = sorted(pairs, key=lambda pair: pair[0].scores["f1"] - pair[1].scores["f1"])
    worst = sorted(pairs, key=lambda pair: (pair[1].scores["f1"], pair[1].scores["f1"] - pair[0].scores["f1"]))
    best = [_example(trained, *pair) for pair in by_gain[:_NUM_EXAMPLES]]
    bad = [_example(trained, *pair) for pair in worst[:_NUM_EXAMPLES]]
    return "\n\n".join(["## Where training helped most", *best, f"## Where `{trained}` is worst", *bad])


def _example(trained: str, before: Answer, after: Answer) -> str:
    asked = f"**{after.question}** Gold: *{after.gold}*. `{BASELINE}` said: *{before.prediction}*. `{trained}` saw and wrote:"
    shown = "\n".join([f"Question: {after.question}", "Memories:", *after.memories, "", after.response])
    return f"{asked}\n\n{_fenced(shown)}"


def _fenced(text: str) -> str:
    """Puts text into a code block whose fence is longer than any in the text."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{text}\n{fence}"
