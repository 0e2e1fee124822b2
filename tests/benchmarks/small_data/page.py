"""Tables and figure of docs/small_data.md, from the results of the study.

  python -m tests.benchmarks.small_data.page --out=DIR --docs=docs

puts what is in DIR/results.json between the marks of docs/small_data.md and into small_data.svg.
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
# DINO's whole step costs 120.6 MFLOP per image, small_data's 159.6: 150 steps for 200, 2 of 8
# checkpoints earlier.
EARLIER = 2
DINO_ONLY = ("no_koleo", "center")  # what makes DINO's loss of that of small_data
BASES: tuple[tuple[str, tuple[str, ...]], ...] = (  # that factors were added to
    ("dinov2", ()),
    ("dinov2", ("first_weights",)),
    ("dinov2", ("first_weights", "no_ibot")),
    ("small_data", ()),
)
COLORS = {"dino": "#1f77b4", "dinov2": "#17becf", "small_data": "#d62728"}


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
    """A table: sets x methods, k-NN of two random networks and of all at the end."""
    names = ["+".join([method, *factors]) for method, factors in methods]
    lines = ["| set | dino, random | small_data, random | " + " | ".join(names) + " |"]
    lines.append("|---" * (len(methods) + 3) + "|")
    for images in (*TUNING, *KEPT_ASIDE):
        starts = [take_runs(results, images, name, ()) for name in ("dino", "small_data")]
        cells = [_describe_start(runs) for runs in starts]
        cells += [describe_accuracy(take_runs(results, images, *one)) for one in methods]
        if any(cells):
            lines.append(f"| {images} | " + " | ".join(cells) + " |")
    return lines


def _describe_start(runs: Sequence[Result]) -> str:
    return f"{mean(run['points'][0]['knn'] for run in runs):.1f}" if runs else ""


def compare_costs(results: Results, earlier: int) -> list[str]:
    """A table: the whole of DINO's run, and small_data `earlier` checkpoints before its end."""
    lines = ["| set | dino: k-NN, linear | small_data: k-NN, linear | its k-NN earlier |"]
    lines.append("|---|---|---|---|")
    for images in (*TUNING, *KEPT_ASIDE):
        dino, own = (take_runs(results, images, method, ()) for method in ("dino", "small_data"))
        if dino and own:
            both = (
                f"{describe_accuracy(x)}, {describe_accuracy(x, 'linear')}" for x in (dino, own)
            )
            lines.append(
                f"| {images} | {' | '.join(both)} | {describe_accuracy(own, point=-1 - earlier)} |"
            )
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
    least = [f"{name} {min(times):.0f}" for name, times in sorted(found.items())]
    return [f"CPU seconds of a training, the least of all: {', '.join(least)}."]


def make_tables(results: Results) -> dict[str, list[str]]:
    """Lines of all tables by name."""
    factors = []
    for method, shared in BASES:
        factors += [f"Added to `{'+'.join((method, *shared))}`:", ""]
        factors += [*list_factors(results, (method, shared)), ""]
    methods = [(method, ()) for method in COLORS] + [("small_data", DINO_ONLY)]
    return {
        "factors": factors[:-1],
        "methods": compare_methods(results, methods),
        "equal": compare_costs(results, EARLIER),
        "costs": describe_costs(results),
    }


def fill_in(text: str, tables: Mapping[str, Sequence[str]]) -> str:
    """A page with each table between its marks, <!-- NAME --> and <!-- end -->."""
    for name, lines in tables.items():
        start, end = f"<!-- {name} -->\n", "<!-- end -->"
        if start in text:
            before, _, rest = text.partition(start)
            table = "\n".join(lines)
            text = f"{before}{start}\n{table}\n\n{end}{rest.partition(end)[2]}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--docs", type=Path, required=True, help="folder of the page")
    arguments = parser.parse_args()
    results = read_results(arguments.out)
    page = arguments.docs / "small_data.md"
    page.write_text(fill_in(page.read_text(), make_tables(results)))
    (arguments.docs / "small_data.svg").write_text(draw(results))


if __name__ == "__main__":
    main()
