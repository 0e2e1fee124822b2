"""Seven methods at equal budget: python -m tests.benchmarks.compare --out=DIR [--photos=DIR]

Trains the digits_* configs of the methods on one ViT, all seeds, once for the same number of
image-views and once for the same FLOPs of the encoder (those that DINO has for --images images),
on the digits and on tiles of the photographs in --photos, whose class is their photograph. Of each
run the evaluated network is judged before the first step and after every quarter: k-NN, and
logistic regression on standardized features. DIR/results.json gets every run once it is finished,
DIR/views.svg, DIR/flops.svg and DIR/tables.md show them. The same command continues where it was
stopped, also within a run. `nice -n 15 taskset -c 0` keeps it on one core.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from dino_jax.data.sources import build_source
from dino_jax.workdir.paths import absolute_path, write_atomically
from tests.benchmarks.compare import figure
from tests.benchmarks.compare.budget import (
    BUDGETS,
    CONFIGS,
    Run,
    config_of,
    costs,
    describe_costs,
    fitting,
    runs_of,
    steps_of,
)
from tests.benchmarks.compare.images import changes_of, cut_photos
from tests.benchmarks.compare.measure import Accuracy, Judge, open_networks

QUIET = {
    "runtime.save_every_minutes": 0.0,
    "runtime.keep_checkpoints": 100,
    "runtime.writers": (),
    "evaluations.knn.every_epochs": 0.0,
    "evaluations.proxies.every_epochs": 0.0,
    "probes.count": 0,
}
X_NAMES = {
    "views": "% of the image-views, the same for all",
    "flops": "% of the encoder's FLOPs, the same for all",
}

Results = dict[str, Any]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of results and unfinished runs")
    add("--photos", type=Path, help="folder of photographs; without it the digits alone")
    add("--images", type=int, default=38_400, help="that DINO sees; the others' follow")
    add("--seeds", type=int, default=3)
    add("--budgets", nargs="+", default=BUDGETS, choices=BUDGETS, help="the first one first")
    add("--only-draw", action="store_true", help="from the results that are there")
    return parser.parse_args()


def changes_of_run(run: Run, changes: dict[str, Any]) -> dict[str, Any]:
    """All changes of the config of a method for one run."""
    steps_per_epoch = config_of(run.method, {}).steps_per_epoch
    length = {
        "seed": run.seed,
        "epochs": run.steps / steps_per_epoch,
        "runtime.save_every_steps": run.every_steps,
    }
    return fitting(run.method, changes) | QUIET | length


def train(run: Run, changes: dict[str, Any], folder: Path) -> None:
    """Trains, or goes on.

    Raises:
      SystemExit: if the training ends with an error.
    """
    options = [f"--config.{name}={value}" for name, value in changes.items()]
    command = [sys.executable, "-m", "dino_jax", "train", f"--config={CONFIGS[run.method]}"]
    log = folder.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as output:
        code = subprocess.call(
            [*command, f"--workdir={folder}", *options], stdout=output, stderr=output
        )
    if code:
        raise SystemExit(f"the training of {run.name} has ended with exit code {code}, see {log}")


def measure(run: Run, changes: dict[str, Any], folder: Path, judge: Judge) -> list[Results]:
    """Accuracies before the first step and after every quarter."""
    config = config_of(run.method, changes)
    images = len(build_source(config.data, "config.data"))
    steps = range(run.every_steps, run.steps + 1, run.every_steps)
    network, variables = open_networks(config, folder, steps, images)
    accuracy = judge.of(network)
    return [
        {"step": step, "images": step * config.batch_size} | rounded(accuracy(one))
        for step, one in zip((0, *steps), variables, strict=True)
    ]


def rounded(accuracy: Accuracy) -> dict[str, float]:
    """For the file: hundredths of a percent."""
    return {name: round(value, 2) for name, value in accuracy._asdict().items()}


def write(out: Path, results: Results) -> None:
    write_atomically(absolute_path(out / "results.json"), json.dumps(results, indent=1) + "\n")


def draw(out: Path, results: Results, images: int) -> None:
    """Figure and tables of what is there."""
    lines = ["Costs per image", "", *describe_costs(), ""]
    for budget in BUDGETS:
        steps = steps_of(budget, images)
        panels = {}
        for kind, runs in results["runs"].items():
            chosen = [run for run in runs.values() if run["steps"] == steps[run["method"]]]
            if chosen:
                panels[kind] = chosen
                lines += [f"{kind}, equal {budget}", "", *figure.table(chosen), ""]
        if panels:
            (out / f"{budget}.svg").write_text(figure.draw(panels, X_NAMES[budget]))
    for kind, accuracy in results["pixels"].items():
        lines.append(f"{kind}, pixels: k-NN {accuracy['knn']:.1f}, linear {accuracy['linear']:.1f}")
    (out / "tables.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    arguments = parse()
    out = arguments.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    file = out / "results.json"
    results: Results = {"runs": {}, "pixels": {}}
    if file.exists():
        results = json.loads(file.read_text())
    results["costs"] = {method: vars(cost) for method, cost in costs().items()}
    if arguments.only_draw:
        draw(out, results, arguments.images)
        return
    kinds = ["digits", *(["photos"] if arguments.photos else [])]
    if arguments.photos:
        cut_photos(arguments.photos, out / "photos")
    changes = {kind: changes_of(kind, out / "photos") for kind in kinds}
    judges = {kind: Judge(config_of("dino", changes[kind])) for kind in kinds}
    for kind, judge in judges.items():
        results["runs"].setdefault(kind, {})
        results["pixels"][kind] = rounded(judge.pixels())
    for budget in arguments.budgets:
        for kind in kinds:
            for run in runs_of(budget, arguments.images, arguments.seeds):
                if run.name in results["runs"][kind]:
                    continue
                began, folder = time.monotonic(), out / "runs" / kind / run.name
                own = changes_of_run(run, changes[kind])
                train(run, own, folder)
                points = measure(run, own, folder, judges[kind])
                results["runs"][kind][run.name] = vars(run) | {"points": points}
                write(out, results)
                draw(out, results, arguments.images)
                shutil.rmtree(folder)
                seconds = time.monotonic() - began
                print(f"{kind} {run.name}: {points[-1]} ({seconds:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
