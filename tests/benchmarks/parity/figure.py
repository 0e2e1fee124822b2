"""Panels with recorded and own numbers, and their differences below, as one SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dino_jax.report.markup import Markup, element, join
from dino_jax.report.scales import Scale, format_ticks, linear_scale, log_scale

WIDTH, TOP, UPPER, GAP, LOWER, BOTTOM = 330, 34, 130, 16, 84, 74
LEFT, RIGHT, HEAD = 48, 12, 34
HEIGHT = TOP + UPPER + GAP + LOWER + BOTTOM
COLUMNS = 3
LEAST, MOST = 1e-17, 1.0  # relative differences; 0 is drawn at the lower edge
FLOAT32 = 2.0**-24  # half a unit in the last place
MARKS = (1e-12, 1e-8, 1e-4)
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#333}.title{font-size:13px;font-weight:600}"
    ".end{text-anchor:end}.middle{text-anchor:middle}.grid{stroke:#e2e2e2;fill:none}"
    ".float32{stroke:#888;stroke-dasharray:4 3;fill:none}.small{font-size:10px;fill:#666}"
    "path.theirs{fill:none;stroke:#f2a65a;stroke-width:7;stroke-linejoin:round}"
    "path.ours{fill:none;stroke:#14213d;stroke-width:1.6}"
    "circle.theirs{fill:none;stroke:#f2a65a;stroke-width:3.5}circle.ours{fill:#14213d}"
    "path.difference{fill:none;stroke:#14213d}circle.difference{fill:#14213d}rect{fill:#fff}"
)


@dataclass(frozen=True)
class Curve:
    """Recorded numbers and ours, point by point.

    Attributes:
      theirs: [n] as they are drawn.
      ours: [n], likewise.
      differences: [n] relative ones, at least 0.
    """

    theirs: np.ndarray
    ours: np.ndarray
    differences: np.ndarray


@dataclass(frozen=True)
class Panel:
    """One pair of charts.

    Attributes:
      title: above them.
      labels: names of the points; () if the points are steps.
      curves: what is drawn.
      log: whether the upper axis is logarithmic.
      x_name: below, where the points are steps.
    """

    title: str
    labels: tuple[str, ...]
    curves: tuple[Curve, ...]
    log: bool = False
    x_name: str = ""


def draw(panels: Sequence[Panel]) -> str:
    """The panels in rows of three, and a line that says which color is whose."""
    parts = [element("style", STYLE), element("rect", width="100%", height="100%"), _legend()]
    for index, panel in enumerate(panels):
        place = f"translate({index % COLUMNS * WIDTH} {HEAD + index // COLUMNS * HEIGHT})"
        parts.append(element("g", _panel(panel), transform=place))
    box = f"0 0 {COLUMNS * WIDTH} {HEAD + -(-len(panels) // COLUMNS) * HEIGHT}"
    return str(element("svg", *parts, xmlns="http://www.w3.org/2000/svg", viewBox=box)) + "\n"


def _legend() -> Markup:
    return join(
        element("path", d="M48 20h34", class_="theirs"),
        element("text", "official code, recorded", x=90, y=24),
        element("path", d="M246 20h34", class_="ours"),
        element("text", "dino_jax", x=288, y=24),
        element("path", d="M360 20h34", class_="float32"),
        element("text", "lower charts: relative difference; the rounding of float32", x=402, y=24),
    )


def _panel(panel: Panel) -> Markup:
    values = np.concatenate([np.concatenate([c.theirs, c.ours]) for c in panel.curves])
    low, high = float(values.min()), float(values.max())
    scale = log_scale(low, high) if panel.log else linear_scale(low, high)
    count = len(panel.curves[0].theirs)

    def x_of(index: int) -> float:
        inner = WIDTH - LEFT - RIGHT
        if panel.labels:
            return LEFT + (index + 0.5) * inner / count
        return LEFT + index * inner / max(count - 1, 1)

    xs = [x_of(index) for index in range(count)]
    parts = [element("text", panel.title, x=LEFT, y=18, class_="title"), _axes(scale)]
    for curve in panel.curves:
        for kind, numbers in (("theirs", curve.theirs), ("ours", curve.ours)):
            ys = [TOP + (1 - scale(float(value))) * UPPER for value in numbers]
            parts.append(_marks(xs, ys, kind, bool(panel.labels)))
        ys = [_height_of(float(value)) for value in curve.differences]
        parts.append(_marks(xs, ys, "difference", bool(panel.labels)))
    parts += _names(panel, xs)
    return join(*parts)


def _height_of(difference: float) -> float:
    """The height of a relative difference in the lower chart."""
    share = math.log(max(difference, LEAST) / LEAST) / math.log(MOST / LEAST)
    return TOP + UPPER + GAP + (1 - min(share, 1.0)) * LOWER


def _marks(xs: Sequence[float], ys: Sequence[float], kind: str, single: bool) -> Markup:
    """Circles where the points have names, or are few; a path where they are steps."""
    points = list(zip(xs, ys, strict=True))
    radius = {"theirs": "5.2", "ours": "2.6", "difference": "2.6"}[kind]
    parts = []
    if not single:
        line = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(element("path", d=line, class_=kind))
    if single or len(points) <= 12:
        parts += [
            element("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=radius, class_=kind)
            for x, y in points
        ]
    return join(*parts)


def _axes(scale: Scale) -> Markup:
    inner, parts = WIDTH - LEFT - RIGHT, []
    labels, factor = format_ticks(scale)
    for tick, label in zip(scale.ticks, labels, strict=True):
        y = TOP + (1 - scale(tick)) * UPPER
        parts.append(element("path", d=f"M{LEFT} {y:.1f}h{inner}", class_="grid"))
        parts.append(element("text", label, x=LEFT - 6, y=f"{y + 4:.1f}", class_="end"))
    if factor:
        parts.append(element("text", factor, x=LEFT, y=TOP - 4, class_="small"))
    for value, label in ((LEAST, "0"), *((x, f"{x:.0e}") for x in MARKS)):
        y = _height_of(value)
        parts.append(element("path", d=f"M{LEFT} {y:.1f}h{inner}", class_="grid"))
        text = element("text", label.replace("e-0", "e-"), x=LEFT - 6, y=f"{y + 4:.1f}")
        parts.append(element("g", text, class_="end"))
    y = _height_of(FLOAT32)
    parts.append(element("path", d=f"M{LEFT} {y:.1f}h{inner}", class_="float32"))
    return join(*parts)


def _names(panel: Panel, xs: Sequence[float]) -> list[Markup]:
    low = TOP + UPPER + GAP + LOWER
    if not panel.labels:
        middle = (xs[0] + xs[-1]) / 2
        return [element("text", panel.x_name, x=f"{middle:.1f}", y=low + 20, class_="middle")]
    return [
        element(
            "text", name, class_="end", transform=f"translate({x + 5:.1f} {low + 16}) rotate(-38)"
        )
        for name, x in zip(panel.labels, xs, strict=True)
    ]
