"""Curves as SVG that stands in a page: no ids, no scripts, colours by the classes of the page's style sheet."""

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from mr1jax.run_report import Curve

NUM_COLOURS = 6  # classes c0 to c5 of the style sheet
_MOST_POINTS = 400  # of a line: more than there are pixels for
_DOT = 2.5  # radius of a validation score


@dataclasses.dataclass(frozen=True)
class Size:
    """Of a chart: the whole, the room below for steps, and the letters, in one unit; and about how many figures an axis has."""

    width: float
    height: float
    bottom: float
    font: float
    num_ticks: int


LARGE = Size(640, 340, 40, 14, 6)
SMALL = Size(320, 170, 24, 12, 4)


@dataclasses.dataclass(frozen=True)
class _Plane:
    """Where steps and values lie. steps: first and last; ticks: values that have a line. What lies outside is drawn at the edge."""

    size: Size
    steps: tuple[float, float]
    ticks: tuple[float, ...]

    @property
    def left(self) -> float:
        """Where the figures of the values end."""
        return self.size.font * (1 + 0.6 * max(len(_figure(value)) for value in self.ticks))

    def points(self, step_N: Sequence[float] | np.ndarray, value_N: Sequence[float] | np.ndarray) -> list[tuple[float, float]]:
        size, top = self.size, self.size.font
        x_N = self.left + _share(step_N, *self.steps) * (size.width - self.left - size.font)
        y_N = top + (1 - _share(value_N, self.ticks[0], self.ticks[-1])) * (size.height - size.bottom - top)
        return list(zip(x_N.tolist(), y_N.tolist(), strict=True))


def draw(curves: Sequence[tuple[int, Curve]], title: str, size: Size, highest: float = math.inf) -> Markup:
    """Draws curves over their steps on one pair of axes.

    curves: with their places among all groups, which give the colours; highest: what no value can exceed, where there is such a thing;
    none is below 0. An interval is cut there.
    """
    plane = _plane([curve for _, curve in curves], size, highest)
    shapes = [_axes(plane)]
    for place, curve in curves:
        shapes.append(Markup('<g class="c{}">{}</g>').format(place % NUM_COLOURS, _curve(curve, plane, highest)))
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}" font-size="{}">{}</svg>').format(
        size.width, size.height, _in_words(title, curves), size.font, Markup().join(shapes)
    )


def key(place: int) -> Markup:
    """Draws a short piece of the line of the group at this place, for a legend."""
    return Markup(
        '<svg class="key" viewBox="0 0 36 12" aria-hidden="true"><g class="c{}"><path class="line" d="M1 6H35"/></g></svg>'
    ).format(place % NUM_COLOURS)


def _in_words(title: str, curves: Sequence[tuple[int, Curve]]) -> str:
    ends = ((curve.name, zip(curve.mean_N[[0, -1]], curve.step_N[[0, -1]], strict=True)) for _, curve in curves)
    lines = (f"{name} from {' to '.join(f'{value:.3g} at step {step:.0f}' for value, step in both)}" for name, both in ends)
    return f"{title} against training step: {'; '.join(lines)}"


def _plane(curves: Sequence[Curve], size: Size, highest: float) -> _Plane:
    values = [curve.mean_N for curve in curves]
    values += [curve.points[1] for curve in curves if curve.points is not None]
    values += [np.clip(curve.interval_2N, 0, highest).ravel() for curve in curves if curve.interval_2N is not None]
    values += [np.array([score for _, score in curve.validation]) for curve in curves]
    value_N = np.concatenate(values)
    step_N = np.concatenate([curve.step_N for curve in curves])
    return _Plane(size, (float(step_N.min()), float(step_N.max())), _ticks(float(value_N.min()), float(value_N.max()), size))


def _ticks(low: float, high: float, size: Size) -> tuple[float, ...]:
    """Finds round figures of which the first is at most `low` and the last at least `high`."""
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = (0.0, 1.0) if low == 0 else (min(0.0, low), max(0.0, high))
    return tuple(MaxNLocator(size.num_ticks, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high))


def _axes(plane: _Plane) -> Markup:
    size = plane.size
    shapes = []
    for value in plane.ticks:
        ((x, y),) = plane.points(plane.steps[:1], [value])
        shapes.append(Markup('<path class="grid" d="M{:.1f} {:.1f}H{:.1f}"/>').format(x, y, size.width - size.font))
        shapes.append(_text(x - 6, y + size.font / 3, "end", _figure(value)))
    steps = MaxNLocator(size.num_ticks, integer=True).tick_values(*plane.steps)
    for step in (step for step in steps if plane.steps[0] <= step <= plane.steps[1]):
        ((x, y),) = plane.points([step], plane.ticks[:1])
        shapes.append(_text(x, y + 1.4 * size.font, "middle", f"{step:.0f}"))
    if size is LARGE:
        shapes.append(_text((plane.left + size.width) / 2, size.height - 4, "middle", "training step"))
    return Markup().join(shapes)


def _figure(value: float) -> str:
    return f"{value:.6g}"


def _text(x: float, y: float, anchor: str, text: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, text)


def _curve(curve: Curve, plane: _Plane, highest: float) -> Markup:
    """Draws band, steps, line and validation scores, in this order."""
    thin = slice(None, None, math.ceil(curve.step_N.size / _MOST_POINTS))
    step_N, shapes = curve.step_N[thin], []
    if curve.interval_2N is not None:
        low_N, high_N = np.clip(curve.interval_2N, 0, highest)[:, thin]
        around = [*plane.points(step_N, low_N), *reversed(plane.points(step_N, high_N))]
        shapes.append(Markup('<path class="band" d="{}Z"/>').format(_through(around)))
    if curve.points is not None:
        dots = plane.points(curve.points[0][thin], curve.points[1][thin])
        shapes.append(Markup('<path class="dots" d="{}"/>').format("".join(f"M{x:.1f} {y:.1f}h0" for x, y in dots)))
    shapes.append(Markup('<path class="line" d="{}"/>').format(_through(plane.points(step_N, curve.mean_N[thin]))))
    for (step, score), (x, y) in zip(curve.validation, plane.points(*_columns(curve.validation)), strict=True):
        circle = Markup('<circle class="score" cx="{:.1f}" cy="{:.1f}" r="{}"><title>validation at step {}: {:.3f}</title></circle>')
        shapes.append(circle.format(x, y, 2 * _DOT, step, score))
    return Markup().join(shapes)


def _columns(pairs: Sequence[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([step for step, _ in pairs]), np.array([value for _, value in pairs])


def _through(points: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _share(value_N: Sequence[float] | np.ndarray, low: float, high: float) -> np.ndarray:
    """Says how far each value is from `low` to `high`, 0 to 1; half way where the two are one."""
    value_N = np.asarray(value_N, np.float64)
    return np.full(value_N.shape, 0.5) if high == low else np.clip((value_N - low) / (high - low), 0, 1)
