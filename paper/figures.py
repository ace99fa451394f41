"""The pictures of the tables, as PNG."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mr1jax.report import COLOURS, moving_average
from mr1jax.run_log import Record
from mr1jax.statistics import t_interval


def bars(rows: Mapping[str, Mapping[str, Mapping[str, Any]]], title: str, metric: str = "em") -> bytes:
    """Draws one bar a row and series, with its interval and every seed as a point. rows: {row: {series: scores}}."""
    figure = Figure(figsize=(8, 4.2), dpi=120, layout="constrained")
    axes, series = figure.subplots(), list(next(iter(rows.values())))
    width = 0.8 / len(series)
    for place, name in enumerate(series):
        at_N = np.arange(len(rows)) + (place - (len(series) - 1) / 2) * width
        found = [row[name] for row in rows.values()]
        mean_N = np.asarray([scores[metric] for scores in found])
        low_N, high_N = np.asarray([scores["ci95"][metric] for scores in found]).T
        axes.bar(at_N, mean_N, width * 0.92, color=COLOURS[place], alpha=0.85, label=name)
        axes.errorbar(at_N, mean_N, [mean_N - low_N, high_N - mean_N], fmt="none", ecolor="black", capsize=3, linewidth=1.2)
        for at, scores in zip(at_N, found, strict=True):
            of_seed = scores["seeds"][metric]
            axes.plot([at] * len(of_seed), of_seed, "o", color="white", markeredgecolor="black", markersize=4)
    axes.set_xticks(
        range(len(rows)),
        [textwrap.fill(row.replace("_", " "), 14 if len(rows) <= 6 else 9, break_long_words=False) for row in rows],
        fontsize=8 if len(rows) > 6 else 10,
    )
    axes.set_ylabel(title)
    _finish(axes, legend=len(series) > 1)
    return _png(figure)


def curves(logs: Mapping[str, Sequence[Sequence[Record]]], metric: str, title: str) -> bytes:
    """Draws a metric against the step, one line a name: the mean over seeds of moving averages, and its 95 % t interval as a band."""
    figure = Figure(figsize=(8, 4.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    for (name, of_seeds), colour in zip(logs.items(), COLOURS, strict=False):
        smooth_nN = np.asarray([moving_average(np.asarray([record[metric] for record in log])) for log in of_seeds])
        step_N = np.asarray([record["step"] for record in of_seeds[0]])
        axes.plot(step_N, smooth_nN.mean(axis=0), color=colour, linewidth=2.2, label=name)
        if len(of_seeds) > 1:
            low_N, high_N = np.asarray([t_interval(at_step) for at_step in smooth_nN.T]).T
            axes.fill_between(step_N, low_N, high_N, color=colour, alpha=0.18, linewidth=0)
    axes.set_xlabel("training step")
    axes.set_ylabel(title)
    _finish(axes, legend=True)
    return _png(figure)


def _finish(axes: Any, legend: bool) -> None:
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        axes.legend(frameon=False, loc="best")


def _png(figure: Figure) -> bytes:
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()
