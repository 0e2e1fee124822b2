"""Which checkpoint, without labels: python -m tests.benchmarks.label_free DIR

DIR is the folder of `tests.benchmarks.small_data`: DIR/results.json has the k-NN accuracy of the
checkpoints of DIR/runs/SET/NAME. Measures each of them on the test images without their labels and
writes DIR/label_free.json, run by run; runs that are there are left alone. Prints for every measure
the rank correlation with the accuracy over the checkpoints of a run, and the regret: the points of
accuracy between the best checkpoint of a run and the one that the measure would choose.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import jax

from dino_jax.commands.compilation_cache import keep_programs
from dino_jax.config.change import change
from dino_jax.data.sources import build_source
from dino_jax.devices.sharding import make_mesh
from dino_jax.evaluation.online import proxies, views
from dino_jax.evaluation.online.build import build_evaluations
from dino_jax.run.instruments import make_context
from dino_jax.run.whole_config import Config, read_plain
from dino_jax.step.recipe import build_recipe
from dino_jax.workdir.checkpointing import read_network
from dino_jax.workdir.paths import absolute_path, write_atomically
from tests.benchmarks.label_free.regret import describe

Measures = dict[str, float]
MOST_IMAGES = 1000


def with_measures(config: Config) -> Config:
    """The config with the measures without labels as its only evaluations."""
    test = config.evaluations["knn"].test
    of = (config.evaluated,)
    both = (*of, *(role for role in ("student",) if role not in of))
    common = dict(images=test, every_epochs=1.0, max_images=MOST_IMAGES, batch_size=256)
    return change(
        config,
        {
            "evaluations": {
                "proxies": proxies.Config(of=both, **common),
                "views": views.Config(of=of, **common),
            }
        },
    )


def measure(folder: Path, steps: list[int]) -> list[Measures]:
    """Measures of the checkpoints of a run, in order: stability compares neighbors of them.

    Args:
      folder: workdir of the run.
      steps: steps of its checkpoints.
    """
    plain = json.loads((folder / "config.json").read_text())
    config = with_measures(read_plain(plain)[0])
    images = len(build_source(config.data, "config.data"))
    recipe = build_recipe(config, images)
    context = make_context(config, recipe, make_mesh(1, jax.devices()[:1]), str(folder))
    evaluations = build_evaluations(config, context, steps_per_epoch=1).values()
    found = []
    for step in steps:
        networks = {role: read_network(folder, step, role)[0] for role in context.networks}
        measures: Measures = {}
        for evaluation in evaluations:
            measures |= evaluation(step, networks)
        found.append(measures)
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--only-print", action="store_true", help="of what is there")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    keep_programs()
    folder = arguments.folder.absolute()
    accuracies = json.loads((folder / "results.json").read_text())
    file = folder / "label_free.json"
    found: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}
    for images, runs in accuracies.items():
        for name, run in runs.items():
            workdir = folder / "runs" / images / name
            done = name in found.get(images, {})
            if done or arguments.only_print or not (workdir / "config.json").exists():
                continue
            points = [point for point in run["points"] if point["step"] > 0]
            measured = measure(workdir, [point["step"] for point in points])
            found.setdefault(images, {})[name] = [
                {"step": point["step"], "knn": point["knn"]} | row
                for point, row in zip(points, measured, strict=True)
            ]
            write_atomically(absolute_path(file), json.dumps(found, indent=1) + "\n")
            print(f"{images} {name}", file=sys.stderr, flush=True)
    print("\n".join(describe(found)))


if __name__ == "__main__":
    main()
