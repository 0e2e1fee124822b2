"""Tables and figure of docs/small_data.md, from the results of the study.

  python -m tests.benchmarks.small_data.page --out=DIR

writes DIR/tables.md and DIR/small_data.svg of what is in DIR/results.json.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from dino_jax.report.markup import element
from tests.benchmarks.compare.figure import HEIGHT, STYLE, WIDTH, draw_legend, draw_panel
from tests.benchmarks.small_data.factors import FACTORS, STEPS
from tests.benchmarks.small_data.images import KEPT_ASIDE, TUNING
from tests.benchmarks.small_data.run import read_results

Result = Mapping[str, Any]
Results = Mapping[str, Mapping[str, Result]]  # by set and name

COLUMNS = 3  # panels in a row
COLORS = {"dino": "#1f77b4", "dinov2": "#17becf", "dinov3": "#9467bd", "small_data": "#d62728"}


def take_runs(results: Results, images: str, method: str, factors: Sequence[str]) -> list[Result]:
    """Runs of one set, method and list of factors with the study's length, all seeds."""
    return [
        run
        for run in results.get(images, {}).values()
        if run["method"] == method
        and list(run["factors"]) == list(factors)
        and run["steps"] == STEPS
    ]


def describe_accuracy(runs: Sequence[Result], field: str = "knn", point: int = -1) -> str:
    """Mean, and each seed if there are several; "" without runs."""
    values = [run["points"][point][field] for run in runs]
    if len(values) < 2:
        return "".join(f"{value:.1f}" for value in values)
    return f"{mean(values):.1f} ({', '.join(f'{value:.1f}' for value in values)})"


def compare_methods(results: Results, methods: Sequence[tuple[str, tuple[str, ...]]]) -> list[str]:
    """A table: sets x methods, k-NN before and after."""
    lines = ["| set | random | " + " | ".join("+".join([m, *f]) for m, f in methods) + " |"]
    lines.append("|---" * (len(methods) + 2) + "|")
    for images in (*TUNING, *KEPT_ASIDE):
        first = describe_accuracy(take_runs(results, images, *methods[0]), point=0)
        cells = [describe_accuracy(take_runs(results, images, *one)) for one in methods]
        if any(cells):
            lines.append(f"| {images} | {first} | " + " | ".join(cells) + " |")
    return lines


def list_factors(results: Results, base: tuple[str, tuple[str, ...]]) -> list[str]:
    """A table: k-NN and linear accuracy of each factor added to a base, with the difference."""
    method, shared = base
    lines = ["| changed | " + " | ".join(f"{x}: k-NN, linear" for x in TUNING) + " |"]
    lines.append("|---" * (len(TUNING) + 1) + "|")
    bases = {images: take_runs(results, images, method, shared) for images in TUNING}
    for factor in ("", *FACTORS):
        cells = []
        for images in TUNING:
            runs = take_runs(results, images, method, [*shared, *([factor] if factor else [])])
            cells.append(_describe_change(runs, bases[images]))
        if any(cells):
            about = FACTORS[factor][0] if factor else "nothing"
            lines.append(f"| {about} | " + " | ".join(cells) + " |")
    return lines


def _describe_change(runs: Sequence[Result], bases: Sequence[Result]) -> str:
    if not runs:
        return ""
    text = f"{describe_accuracy(runs)}, {describe_accuracy(runs, 'linear')}"
    if not bases or runs == bases:
        return text
    ends = [mean(run["points"][-1]["knn"] for run in some) for some in (runs, bases)]
    return f"{text} ({ends[0] - ends[1]:+.1f})"


def draw(results: Results) -> str:
    """k-NN over the images seen, a panel for each set, means of the seeds."""
    parts = [element("style", STYLE), element("rect", width="100%", height="100%")]
    panels, seen = 0, []
    for images in (*TUNING, *KEPT_ASIDE):
        curves = {}
        for method in COLORS:
            runs = take_runs(results, images, method, ())
            if runs:
                curves[method] = _mean_curve(runs)
                seen += [method] * (method not in seen)
        if not curves:
            continue
        panel = draw_panel(f"{images}: k-NN, %", curves, "% of the images", COLORS)
        place = f"translate({panels % COLUMNS * WIDTH} {panels // COLUMNS * HEIGHT})"
        parts.append(element("g", panel, transform=place))
        panels += 1
    width, height = COLUMNS * WIDTH, -(-panels // COLUMNS) * HEIGHT + 24
    parts.append(draw_legend(seen, width, height, COLORS))
    box = f"0 0 {width} {height}"
    return str(element("svg", *parts, xmlns="http://www.w3.org/2000/svg", viewBox=box)) + "\n"


def _mean_curve(runs: Sequence[Result]) -> list[tuple[float, float]]:
    last = runs[0]["points"][-1]["step"]
    return [
        (points[0]["step"] / last, mean(point["knn"] for point in points))
        for points in zip(*(run["points"] for run in runs), strict=True)
    ]


def describe_costs(results: Results) -> list[str]:
    """CPU seconds of a training by method, the least of all its runs: others shared the core."""
    found: dict[str, list[float]] = {}
    for runs in results.values():
        for run in runs.values():
            if not run["factors"] and run["steps"] == STEPS:
                found.setdefault(run["method"], []).append(run["cpu_seconds"])
    return [f"{name}: {min(times):.0f} CPU s" for name, times in sorted(found.items())]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    results = read_results(out)
    methods = [(method, ()) for method in COLORS]
    lines = [*compare_methods(results, methods), ""]
    for base in (("dinov2", ()), ("dinov2", ("first_weights",)), ("dino", ()), ("small_data", ())):
        lines += [" + ".join([base[0], *base[1]]), "", *list_factors(results, base), ""]
    lines += describe_costs(results)
    (out / "tables.md").write_text("\n".join(lines) + "\n")
    (out / "small_data.svg").write_text(draw(results))


if __name__ == "__main__":
    main()
