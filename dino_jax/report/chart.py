"""Curves as inline SVG; colors are CSS classes, so that the page chooses light or dark."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dino_jax.report.history import Curve
from dino_jax.report.markup import Markup, element, join
from dino_jax.report.scales import Scale, format_ticks, linear_scale, log_scale

# In CSS pixels at a width of 360: a phone shows the text at this size.
WIDTH, HEIGHT = 360, 214
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 16, 34
MOST_POINTS = 240  # points of a path; longer paths are thinned to extremes of intervals
MOST_DOTS = 24  # shorter curves get a dot on every point
LEAST_RATIO = 10  # largest to smallest number on a logarithmic axis
COLORS, DASHES = 8, 4  # classes c0 … c7 and d0 … d3 in page.css


@dataclass(frozen=True)
class Series:
    """One curve of a chart; `color` and `dash` count from 0 and repeat."""

    label: str
    curve: Curve
    color: int
    dash: int = 0


@dataclass(frozen=True)
class Reference:
    """A horizontal line with a meaning, such as ln K."""

    label: str
    value: float


@dataclass(frozen=True)
class Axis:
    """Fixed properties of the vertical axis.

    Attributes:
      unit: shown above it.
      low: fixed lower limit; None: from the numbers.
      high: fixed upper limit; None: from the numbers.
      log: logarithmic, if all numbers are positive and span a power of ten.
    """

    unit: str = ""
    low: float | None = None
    high: float | None = None
    log: bool = False


def draw_chart(
    title: str,
    series: Sequence[Series],
    axis: Axis,
    references: Sequence[Reference],
    last_step: int,
) -> Markup:
    """Draws curves over steps.

    Args:
      title: for readers who hear the page.
      series: curves, at least one with a finite value.
      axis: the vertical axis.
      references: lines, drawn where they are close enough to the curves.
      last_step: end of the horizontal axis.
    """
    vertical = choose_scale(series, axis, references)
    horizontal = linear_scale(0, max(last_step, 1), ticks=6, exact=True)
    shown = [line for line in references if vertical.low <= line.value <= vertical.high]
    return element(
        "svg",
        element("title", title),
        _grid(vertical, axis.unit),
        _steps(horizontal),
        *(_reference(line, vertical) for line in shown),
        *(_series(one, horizontal, vertical) for one in series),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        class_="chart",
    )


def choose_scale(series: Sequence[Series], axis: Axis, references: Sequence[Reference]) -> Scale:
    """The vertical scale that shows all curves, and references that at most double their range."""
    values = np.concatenate([one.curve.finite() for one in series])
    low, high = float(values.min()), float(values.max())
    if axis.log and low > 0 and high >= LEAST_RATIO * low:
        return log_scale(low, high)
    room = (high - low) or abs(high)
    for line in references:
        if low - room <= line.value <= high + room:
            low, high = min(low, line.value), max(high, line.value)
    low = low if axis.low is None else axis.low
    high = high if axis.high is None else axis.high
    return linear_scale(low, high)


def thin(steps: np.ndarray, values: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and the largest point of each of most / 2 intervals, in order.

    Args:
      steps: [n] ascending.
      values: [n] finite.
      most: largest number of points to keep, even.
    """
    if len(steps) <= most:
        return steps, values
    kept = set()
    for part in np.array_split(np.arange(len(steps)), most // 2):
        kept |= {part[np.argmin(values[part])], part[np.argmax(values[part])]}
    order = np.array(sorted(kept))
    return steps[order], values[order]


def _runs_of_finite(curve: Curve) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The pieces of a curve between values that are not finite."""
    finite = np.isfinite(curve.values)
    edges = np.flatnonzero(np.diff(finite.astype(int))) + 1
    pieces = zip(np.split(curve.steps, edges), np.split(curve.values, edges), strict=True)
    return ((steps, values) for steps, values in pieces if np.isfinite(values[0]))


def _series(one: Series, horizontal: Scale, vertical: Scale) -> Markup:
    style = f"c{one.color % COLORS} d{one.dash % DASHES}"
    count = len(one.curve.steps)
    parts = []
    for steps, values in _runs_of_finite(one.curve):
        most = max(2, MOST_POINTS * len(steps) // count // 2 * 2)
        points = [
            (_x(horizontal, s), _y(vertical, v))
            for s, v in zip(*thin(steps, values, most), strict=True)
        ]
        if len(points) > 1:
            path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
            parts.append(element("path", d=path, class_=f"line {style}"))
        if count <= MOST_DOTS or len(points) == 1:
            parts += [
                element("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="2.6", class_=f"dot {style}")
                for x, y in points
            ]
    parts += [_cross(_x(horizontal, s)) for s in _not_finite(one.curve)]
    return join(*parts)


def _not_finite(curve: Curve) -> np.ndarray:
    """Some steps whose number was not finite, at most MOST_DOTS."""
    steps = curve.steps[~np.isfinite(curve.values)]
    return steps[:: -(-len(steps) // MOST_DOTS) or 1]


def _cross(x: float) -> Markup:
    """Marks a number that was not finite, at the foot of the chart."""
    y = HEIGHT - BOTTOM - 5
    path = f"M{x - 3:.1f} {y - 3}l6 6m0 -6l-6 6"
    return element("path", element("title", "not finite"), d=path, class_="lost")


def _grid(scale: Scale, unit: str) -> Markup:
    labels, factor = format_ticks(scale)
    parts = []
    for tick, label in zip(scale.ticks, labels, strict=True):
        y = _y(scale, tick)
        parts += [_horizontal(y, "grid"), _text(label, LEFT - 6, y + 4, "end")]
    above = " ".join(part for part in (factor, unit) if part)
    if above:
        parts.append(_text(above, LEFT - 6, 8, "end"))
    return join(*parts)


def _steps(scale: Scale) -> Markup:
    labels, _ = format_ticks(scale)
    bottom = HEIGHT - BOTTOM
    parts = [_horizontal(bottom, "axis")]
    for tick, label in zip(scale.ticks, labels, strict=True):
        x = _x(scale, tick)
        parts.append(element("path", d=f"M{x:.1f} {bottom}v4", class_="axis"))
        sticks_out = x + 3.5 * len(label) > WIDTH
        parts.append(
            _text(label, WIDTH, bottom + 16, "end")
            if sticks_out
            else _text(label, x, bottom + 16, "middle")
        )
    parts.append(_text("step", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 3, "middle"))
    return join(*parts)


def _reference(line: Reference, scale: Scale) -> Markup:
    y = _y(scale, line.value)
    return join(
        _horizontal(y, "reference"),
        _text(line.label, WIDTH - RIGHT, y - 4, "end"),
    )


def _horizontal(y: float, style: str) -> Markup:
    """A line across the chart."""
    return element("path", d=f"M{LEFT} {y:.1f}H{WIDTH - RIGHT}", class_=style)


def _text(text: str, x: float, y: float, anchor: str) -> Markup:
    """Small text whose `anchor` (middle, end) is at (x, y), y on its base line."""
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", class_=f"tick {anchor}")


def _x(scale: Scale, step: float) -> float:
    return LEFT + scale(step) * (WIDTH - LEFT - RIGHT)


def _y(scale: Scale, value: float) -> float:
    return TOP + (1 - scale(value)) * (HEIGHT - TOP - BOTTOM)
