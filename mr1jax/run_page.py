"""One HTML file about one or more runs: what was compared, how it learnt, what it scores, where it gained and where it lost.

The file asks for nothing else: styles and curves are in it, there is no script, and its own policy forbids both. Whatever comes from a run
is text: jinja2 escapes it, and characters that would not be seen, or would turn the line around, are shown as signs.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from mr1jax.agents.prompts import DATE_MARK
from mr1jax.checkpoint import VALIDATION
from mr1jax.config import require
from mr1jax.evaluate import METRICS, Row
from mr1jax.report import with_interval, write_whole
from mr1jax.run_chart import LARGE, SMALL, draw, key
from mr1jax.run_examples import Reply, compare_runs, own_row
from mr1jax.run_report import Group, Run, curves, differences, group_seeds, metric_names, read_runs, score_rows, seed_scores, sources

_REWARD = "Mean reward of a step"
# By the name in metrics.jsonl: title, what it is, what it cannot exceed.
_WATCHED = {
    "dead_groups": ("Dead groups", "share of groups whose responses all earned the same: nothing is learnt from comparing them", 1.0),
    "entropy": ("Entropy", "of the distribution a token was drawn from, in nats", math.inf),
    "kl": ("KL to the reference", "k3 estimate, in nats a token", math.inf),
    "ratio_gap": (
        "Sampler against trainer",
        "largest deviation of a token's ratio from 1 before the first update: rounding, or a fault",
        math.inf,
    ),
    "response_tokens": ("Response length", "tokens", math.inf),
    "share_add": ("ADD", "operations of this kind a decision", math.inf),
    "share_update": ("UPDATE", "operations of this kind a decision", math.inf),
    "share_delete": ("DELETE", "operations of this kind a decision", math.inf),
    "share_noop": ("NOOP", "share of decisions", 1.0),
    "share_refused": ("Refused", "operations that the bank refused, a decision", math.inf),
    "skipped": ("Skipped updates", "share that was not done, because a number was not finite or a spike", 1.0),
}
_SIGN = 0xFFFD
_UNSEEN = (
    {number: 0x2400 + number for number in range(0x20) if chr(number) not in "\t\n"}
    | {0x7F: 0x2421}
    | dict.fromkeys([*range(0x80, 0xA0), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF], _SIGN)
    | dict.fromkeys([0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)], _SIGN)  # they turn what follows around
)


def write_page(folders: Sequence[Path], out: Path) -> None:
    """Writes the page about the runs in these folders to `out`; raises ValueError where one of them is no run, or `out` no file's name."""
    require(not out.is_dir(), f"--out {out} is a folder; name a file that ends in .html")
    require(out.suffix == ".html", f"--out {out} does not end in .html; name a file that does, so that nothing of a run is replaced")
    above = next(folder for folder in out.absolute().parents if folder.exists())
    require(above.is_dir(), f"--out {out} cannot be written, since {above} is a file; name another")
    write_whole(out, render(read_runs(folders)))
    print(f"report: {out}")


def render(runs: Sequence[Run]) -> str:
    """Lays the page out as HTML."""
    groups = group_seeds(runs)
    environment = jinja2.Environment(
        autoescape=True, finalize=_visible, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"marked": _marked, "score": _score}
    return environment.from_string(Path(__file__).with_suffix(".html").read_text(encoding="utf-8")).render(
        runs=[_summary(run, groups) for run in runs],
        differences=differences(runs),
        groups=[(group.name, key(place)) for place, group in enumerate(groups)],
        has_seeds=any(len(group.runs) > 1 for group in groups),
        reward=_chart(groups, "reward", _REWARD, 1.0, LARGE),
        charts=_small_charts(runs, groups),
        not_evaluated=[run.name for run in runs if not run.evaluations],
        evaluations=[_evaluation(runs, groups, source) for source in sources(runs)],
    )


def _visible(value: Any) -> Any:
    return value.translate(_UNSEEN) if isinstance(value, str) else value


def _summary(run: Run, groups: Sequence[Group]) -> dict[str, Any]:
    config, alone = run.config, curves([Group(run.name, (run,))], "reward")
    place = next(place for place, group in enumerate(groups) if run in group.runs)
    scored = [(record[VALIDATION], record["step"]) for record in run.log if not math.isnan(record.get(VALIDATION, math.nan))]
    skipped = sum(record.get("skipped", 0) > 0 for record in run.log)
    taken_up = config.manager_from if config.agent == "manager" else config.answerer_from
    adapter = f"LoRA rank {config.lora.rank}" if config.lora.rank else ""
    return {
        "name": run.name,
        "key": key(place),
        "agent": "Memory Manager" if config.agent == "manager" else "Answer Agent",
        "algorithm": config.loss.algorithm.upper().replace("_", " "),
        "seed": config.seed,
        "steps": f"{len(run.log)} of {config.steps}",
        "data": f"{config.data}, {config.conversations} conversations",
        "start": ", ".join(filter(None, (config.backbone or "the tiny model that ships", taken_up, adapter))),
        "reward": f"{alone[0][1].mean_N[0]:.3f} → {alone[0][1].mean_N[-1]:.3f}" if alone else "–",
        "best": "{:.3f} at step {}".format(*max(scored, key=lambda each: each[0])) if scored else "–",
        "skipped": skipped,
    }


def _chart(groups: Sequence[Group], metric: str, title: str, highest: float, size: Any) -> Any:
    """Draws one metric of all groups, or nothing where none has a finite number of it."""
    found = curves(groups, metric)
    return draw(found, title, size, highest) if found else None


def _small_charts(runs: Sequence[Run], groups: Sequence[Group]) -> list[tuple[str, str, Any]]:
    logged = metric_names(runs)
    drawn = [
        (title, about, _chart(groups, metric, title, highest, SMALL))
        for metric, (title, about, highest) in _WATCHED.items()
        if metric in logged
    ]
    return [chart for chart in drawn if chart[2]]


def _evaluation(runs: Sequence[Run], groups: Sequence[Group], source: str) -> dict[str, Any]:
    evaluated = [run for run in runs if source in run.evaluations]
    own = {(run.name, own_row(run, source)) for run in evaluated}
    return {
        "source": source,
        "p_values": [(run.name, list(run.evaluations[source].rows)[-1], run.evaluations[source]) for run in evaluated],
        "rows": [
            {"runs": names, "all": len(names) == len(evaluated) > 1, "name": name, "own": any((run, name) in own for run in names)}
            | _cells(row)
            for names, name, row in score_rows(runs, source)
        ],
        "seeds": [(group.name, scores) for group in groups if (scores := seed_scores(group, source))],
        "comparisons": compare_runs(runs, source),
    }


def _cells(row: Row) -> dict[str, Any]:
    kinds = ("add", "update", "delete", "noop")
    return {
        "scores": [with_interval(getattr(row, metric), row.ci95[metric]) for metric in METRICS],
        "operations": " / ".join(str(row.operations[kind]) for kind in kinds),
        "fill": f"{row.bank_fill:.0%}",
        "evidence": "–" if row.evidence_recall is None else f"{row.evidence_recall:.0%}",
    }


def _score(mean_and_interval: tuple[float, tuple[float, float]]) -> str:
    return with_interval(*mean_and_interval)


def _marked(reply: Reply, other: Reply) -> list[tuple[str, bool, bool, bool]]:
    """Lists what a bank holds as (line, whether the other bank holds it too, whether it was shown, whether the answer rests on it)."""
    return [
        (line, line in other.bank, line in reply.memories, line.rsplit(f" {DATE_MARK} ", 1)[0] in reply.evidence) for line in reply.bank
    ]
