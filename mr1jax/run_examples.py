"""Two evaluations of the same questions, question by question: which were gained and which lost, and what was in the banks.

A question's gain is its F1 after less its F1 before.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mr1jax.report import ANSWERS, BANKS, BASELINE, OWN_ROW
from mr1jax.run_report import Evaluation, Run
from mr1jax.statistics import paired_test

NUM_EXAMPLES = 3  # of each kind

T = TypeVar("T")


@dataclass(frozen=True)
class Reply:
    """One question and what was made of it. em, f1: from 0 to 1; bank: what its conversation's bank held, None where that was not kept."""

    id: str
    conversation: str
    question: str
    gold: str
    evidence: tuple[str, ...]
    prediction: str
    response: str
    memories: tuple[str, ...]
    em: float
    f1: float
    bank: tuple[str, ...] | None


@dataclass(frozen=True)
class Comparison:
    """Two rows on the same questions. gained, lost: of (before, after), the most first; em in percent.

    won, gone: how many questions are exactly right only after, only before; p_value: of `statistics.paired_test`. missing: why there is
    nothing to show, "" where there is.
    """

    before: str
    after: str
    missing: str = ""
    questions: int = 0
    em: tuple[float, float] = (0.0, 0.0)
    p_value: float = 1.0
    won: int = 0
    gone: int = 0
    gained: tuple[tuple[Reply, Reply], ...] = ()
    lost: tuple[tuple[Reply, Reply], ...] = ()


def compare_runs(runs: Sequence[Run], source: str) -> list[Comparison]:
    """Compares the last run with the warm start it was evaluated beside, and with the first run, by the row of the agent each trained."""
    first, last = runs[0], runs[-1]
    if source not in last.evaluations:
        return [Comparison("", last.name, f"{last.name} was not evaluated on {source}.")]
    after = (last, own_row(last, source))
    pairs = [((last, BASELINE), after)]
    if first is not last and source in first.evaluations:
        pairs.append(((first, own_row(first, source)), after))
    return [_compare(before, after, source) for before, after in pairs]


def own_row(run: Run, source: str) -> str:
    """Names the row of the agent that a run trained, alone beside the warm start's other; the last row where there is none."""
    rows, own = list(run.evaluations[source].rows), OWN_ROW[run.config.agent]
    return own if own in rows else rows[-1]


def _compare(before: tuple[Run, str], after: tuple[Run, str], source: str) -> Comparison:
    one, other = (f"{run.name}, {row}" for run, row in (before, after))
    replies, others = (_read_replies(run.evaluations[source], row) for run, row in (before, after))
    for (run, _), found in ((before, replies), (after, others)):
        if not found:
            return Comparison(one, other, f"The evaluation of {run.name} has kept no answers; mr1jax eval on {source} writes them.")
    asked, asked_other = ([(reply.id, reply.question, reply.gold) for reply in found] for found in (replies, others))
    if asked != asked_other:
        return Comparison(one, other, "The two were not asked the same questions.")
    pairs = list(zip(replies, others, strict=True))
    em, em_other = ([reply.em for reply in found] for found in (replies, others))
    return Comparison(
        one,
        other,
        questions=len(pairs),
        em=(100 * float(np.mean(em)), 100 * float(np.mean(em_other))),
        p_value=paired_test(em_other, em, np.array([reply.conversation for reply in replies]), 0),
        won=sum(reply.em < now.em for reply, now in pairs),
        gone=sum(reply.em > now.em for reply, now in pairs),
        gained=_examples(pairs, 1),
        lost=_examples(pairs, -1),
    )


def _examples(pairs: Sequence[tuple[Reply, Reply]], sign: int) -> tuple[tuple[Reply, Reply], ...]:
    """Picks the greatest gains (sign 1) or losses (sign -1); of equal ones, the first of each conversation before a second of any."""
    changed = [(sign * (after.f1 - before.f1), before, after) for before, after in pairs if sign * (after.f1 - before.f1) > 0]
    seen: Counter[tuple[float, str]] = Counter()
    ranked = []
    for place, (change, before, after) in enumerate(changed):
        ranked.append((-change, seen[change, before.conversation], place, (before, after)))
        seen[change, before.conversation] += 1
    return tuple(pair for *_, pair in sorted(ranked, key=lambda entry: entry[:3])[:NUM_EXAMPLES])


def _read_replies(evaluation: Evaluation, row: str) -> list[Reply]:
    """Reads the answers of a row and puts each beside its bank; none where the evaluation kept no answers."""
    banks = dict(_read_lines(evaluation.folder / BANKS.format(row), lambda line: (line["conversation"], _texts(line["memories"]))))
    return _read_lines(evaluation.folder / ANSWERS.format(row), lambda line: _reply(line, banks))


def _reply(line: dict[str, Any], banks: dict[str, tuple[str, ...]]) -> Reply:
    texts = {name: str(line[name]) for name in ("id", "conversation", "question", "gold", "prediction", "response")}
    return Reply(
        **texts,
        evidence=_texts(line.get("evidence", ())),
        memories=_texts(line["memories"]),
        em=float(line["em"]),
        f1=float(line["f1"]),
        bank=banks.get(texts["conversation"]),
    )


def _texts(values: Sequence[Any]) -> tuple[str, ...]:
    return tuple(map(str, values))


def _read_lines(path: Path, read: Callable[[dict[str, Any]], T]) -> list[T]:
    lines = path.read_bytes().splitlines() if path.is_file() else []
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(read(json.loads(line)))
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {number}, is not what mr1jax eval writes; run it again") from error
    return found
