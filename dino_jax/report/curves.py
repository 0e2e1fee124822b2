"""The sections of charts, with one run or several drawn over each other."""

from collections.abc import Sequence

import numpy as np

from dino_jax.report.chart import COLORS, DASHES, Series, draw_chart
from dino_jax.report.history import Curve, Run
from dino_jax.report.markup import Markup, element, join
from dino_jax.report.panels import SECTIONS, Panel, Section, generic_section, match_baseline
from dino_jax.report.scales import format_value


def draw_sections(runs: Sequence[Run]) -> Markup:
    """All charts that have something to show."""
    others = generic_section(name for run in runs for name in run.curves)
    return join(*(_section(section, runs) for section in (*SECTIONS, others)))


def collect_series(panel: Panel, runs: Sequence[Run]) -> list[Series]:
    """The curves of a panel: a color for every run, or for every curve of the only run."""
    series = []
    for place, run in enumerate(runs):
        labels = ((panel.label(metric), metric) for metric in panel.candidates(run.curves))
        chosen = _distinct(
            [
                (label, run.curves[metric])
                for label, metric in labels
                if label is not None and not match_baseline(run, metric)
            ]
        )
        chosen = [(label, curve) for label, curve in chosen if len(curve.finite())]
        for index, (name, curve) in enumerate(chosen):
            label = name or (panel.unnamed if len(chosen) > 1 else "")
            if len(runs) == 1:
                series.append(Series(label, curve, index, index // COLORS))
            else:
                full = f"{run.name}, {label}" if label else run.name
                series.append(Series(full, curve, place, index))
    return series


def _distinct(chosen: list[tuple[str | None, Curve]]) -> list[tuple[str, Curve]]:
    """Leaves out curves that equal one before: the loss of the only objective is the loss."""
    kept: list[tuple[str, Curve]] = []
    for label, curve in sorted(chosen, key=lambda pair: pair[0] or ""):
        same = (
            np.array_equal(curve.steps, other.steps)
            and np.array_equal(curve.values, other.values, equal_nan=True)
            for _, other in kept
        )
        if len(chosen) == 1 or not any(same):
            kept.append((label or "", curve))
    return kept


def _section(section: Section, runs: Sequence[Run]) -> Markup | None:
    drawn, constant = [], []
    for panel in section.panels:
        series = collect_series(panel, runs)
        if not series or all(panel.superfluous(run.curves) for run in runs):
            continue
        value = _constant(series)
        if value is None:
            drawn.append(_card(panel, series, runs))
        else:
            constant.append((panel.title, value))
    if not drawn and not constant:
        return None
    return element(
        "section",
        element("h2", section.title),
        element("div", *drawn, class_="cards") if drawn else None,
        _constants(constant) if constant else None,
    )


def _constant(series: Sequence[Series]) -> float | None:
    """The value that all curves have at all steps, at least two; None if they differ."""
    values = np.concatenate([one.curve.values for one in series])
    same = len(values) > len(series) and np.all(values == values[0])
    return float(values[0]) if same else None


def _constants(constant: Sequence[tuple[str, float]]) -> Markup:
    parts: list[object] = []
    for title, value in constant:
        parts += [" · " if parts else None, f"{title} ", element("b", format_value(value))]
    return element("p", "The same at every step: ", *parts, class_="constants")


def _card(panel: Panel, series: Sequence[Series], runs: Sequence[Run]) -> Markup:
    references = {line for run in runs for line in panel.references(run)}
    last_step = max(run.last_step for run in runs)
    ordered = sorted(references, key=lambda line: line.value)
    return element(
        "div",
        element("h3", panel.title),
        _legend(series),
        draw_chart(panel.title, series, panel.axis, ordered, last_step),
        element("p", panel.note, class_="note") if panel.note else None,
        class_="card",
    )


def _legend(series: Sequence[Series]) -> Markup:
    """Name and newest value of every curve."""
    items = []
    for one in series:
        style = f"line c{one.color % COLORS} d{one.dash % DASHES}"
        swatch = element(
            "svg",
            element("path", d="M1 4H21", class_=style),
            viewBox="0 0 22 8",
            aria_hidden="true",
        )
        newest = element("b", format_value(float(one.curve.values[-1])))
        items.append(element("li", swatch, f"{one.label} " if one.label else None, newest))
    return element("ul", *items, class_="legend")
