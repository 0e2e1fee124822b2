"""Curves of a comparison as one SVG, and its tables as Markdown."""

import math
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from dino_jax.report.markup import Markup, element, join

COLORS = {
    "dino": "#1f77b4",
    "dinov2": "#17becf",
    "simclr": "#ff7f0e",
    "byol": "#2ca02c",
    "mocov3": "#d62728",
    "mae": "#9467bd",
    "simdino": "#8c564b",
}
WIDTH, HEIGHT, LEFT, TOP, BOTTOM, RIGHT = 360, 250, 44, 28, 38, 12  # of a panel
MEASURES = {"knn": "k-NN", "linear": "linear"}
STYLE = (
    "text{font:11px system-ui,sans-serif;fill:#444}.title{font-size:12px;font-weight:600}"
    ".end{text-anchor:end}.middle{text-anchor:middle}.grid{stroke:#e4e4e4}"
    ".line{fill:none;stroke-width:2;stroke-linejoin:round}rect{fill:#fff}"
)

Curves = dict[str, list[tuple[float, float]]]
Runs = Sequence[Mapping[str, Any]]  # of one kind of images and one budget


def draw(panels: Mapping[str, Runs], x_name: str) -> str:
    """One row of panels per title: accuracies over the share of the budget that was spent.

    Args:
      panels: runs by title.
      x_name: what the horizontal axis is.
    """
    parts = [element("style", STYLE), element("rect", width="100%", height="100%")]
    for row, (title, runs) in enumerate(panels.items()):
        for column, (field, name) in enumerate(MEASURES.items()):
            panel = draw_panel(f"{title}: {name}, %", _curves(runs, field), x_name)
            place = f"translate({column * WIDTH} {row * HEIGHT})"
            parts.append(element("g", panel, transform=place))
    width, height = len(MEASURES) * WIDTH, len(panels) * HEIGHT + 24
    seen = {run["method"] for runs in panels.values() for run in runs}
    methods = [method for method in COLORS if method in seen]
    parts.append(draw_legend(methods, width, height))
    box = f"0 0 {width} {height}"
    return str(element("svg", *parts, xmlns="http://www.w3.org/2000/svg", viewBox=box)) + "\n"


def _curves(runs: Runs, field: str) -> Curves:
    """Means over the seeds: points (share of the budget, accuracy) by method."""
    curves = {}
    for method in COLORS:
        points = [run["points"] for run in runs if run["method"] == method]
        if points:
            last = points[0][-1]["step"]
            curves[method] = [
                (one[0]["step"] / last, mean(point[field] for point in one))
                for one in zip(*points, strict=True)
            ]
    return curves


def draw_panel(
    title: str, curves: Curves, x_name: str, colors: Mapping[str, str] = COLORS
) -> Markup:
    """One panel of `WIDTH` x `HEIGHT`: a line for each curve, accuracies in percent.

    Args:
      title: above it.
      curves: points (share of the budget, accuracy) by the name of a line.
      x_name: what the horizontal axis is.
      colors: of the lines.
    """
    values = [y for curve in curves.values() for _, y in curve]
    low = 10 * math.floor(min(values) / 10)
    high = min(100, 10 * math.ceil(max(values) / 10))
    inner_width, inner_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        share = (y - low) / (high - low or 1)
        return LEFT + x * inner_width, TOP + (1 - share) * inner_height

    parts = [element("text", title, x=LEFT, y=16, class_="title")]
    for tick in range(low, high + 1, 10 if high - low <= 60 else 20):
        _, y = at(0, tick)
        parts.append(element("path", d=f"M{LEFT} {y:.1f}h{inner_width}", class_="grid"))
        parts.append(element("text", str(tick), x=LEFT - 6, y=f"{y + 4:.1f}", class_="end"))
    for share in (0, 0.25, 0.5, 0.75, 1):
        x, y = at(share, low)
        label = f"{100 * share:.0f}"
        parts.append(element("text", label, x=f"{x:.1f}", y=f"{y + 16:.1f}", class_="middle"))
    middle = f"{LEFT + inner_width / 2:.1f}"
    parts.append(element("text", x_name, x=middle, y=HEIGHT - 6, class_="middle"))
    for method, curve in curves.items():
        path = "M" + "L".join("{:.1f} {:.1f}".format(*at(*point)) for point in curve)
        parts.append(element("path", d=path, class_="line", stroke=colors[method]))
    return join(*parts)


def draw_legend(
    methods: Sequence[str], width: int, height: int, colors: Mapping[str, str] = COLORS
) -> Markup:
    """Names of lines in a row at the bottom of a figure of `width` x `height`."""
    step, parts = (width - LEFT) / max(len(methods), 1), []
    for index, method in enumerate(methods):
        x, y = LEFT + index * step, height - 10
        line = f"M{x:.1f} {y - 4}h18"
        parts.append(element("path", d=line, class_="line", stroke=colors[method]))
        parts.append(element("text", method, x=f"{x + 24:.1f}", y=y))
    return join(*parts)


def table(runs: Runs) -> list[str]:
    """Lines of a Markdown table: the mean of the seeds at the end, and their spread."""
    lines = [
        "| method | images | seeds | k-NN before | k-NN | linear before | linear |",
        "|---|---|---|---|---|---|---|",
    ]
    for method in COLORS:
        own = [run for run in runs if run["method"] == method]
        if not own:
            continue
        cells = [f"{own[0]['points'][-1]['images']:,}", str(len(own))]
        for field in MEASURES:
            before = mean(run["points"][0][field] for run in own)
            last = [run["points"][-1][field] for run in own]
            each = ", ".join(f"{value:.1f}" for value in last)
            cells += [f"{before:.1f}", f"{mean(last):.1f} ({each})"]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return lines
