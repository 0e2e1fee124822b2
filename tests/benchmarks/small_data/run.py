"""One run of the study: trains, judges its checkpoints, and writes the result.

  python -m tests.benchmarks.small_data.run --out=DIR --set=digits --run=dinov2+no_koleo-200-0

The images are DIR/sets, the run with its checkpoints is kept in DIR/runs/SET/NAME, its result is
written to DIR/results.json. A run that is there is left alone; one that was stopped goes on.
"""

import argparse
import fcntl
import json
import resource
import sys
from pathlib import Path
from typing import Any

from dino_jax.run.whole_config import complete_config, read_config
from dino_jax.train import main as train
from dino_jax.workdir.paths import absolute_path, write_atomically
from tests.benchmarks.compare.measure import Judge, open_networks
from tests.benchmarks.small_data.factors import POINTS, Run, make_config, parse_run
from tests.benchmarks.small_data.images import KEPT_ASIDE, TUNING

FILE = "results.json"
CONFIG = """from pathlib import Path

from tests.benchmarks.small_data.factors import make_config, parse_run


def get_config():
    return make_config(parse_run({name!r}), Path({images!r}))
"""


def cpu_seconds() -> float:
    """CPU seconds of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def read_results(out: Path) -> dict[str, dict[str, Any]]:
    """Results of finished runs by set and name."""
    file = out / FILE
    return json.loads(file.read_text()) if file.exists() else {}


def add_result(out: Path, images: str, name: str, result: dict[str, Any]) -> None:
    """Adds a result to the file, also beside others that do."""
    with (out / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        results = read_results(out)
        results.setdefault(images, {})[name] = result
        write_atomically(absolute_path(out / FILE), json.dumps(results, indent=1) + "\n")


def train_run(run: Run, images: Path, folder: Path) -> None:
    """Trains, or goes on.

    Raises:
      SystemExit: if the training ends with an error.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.with_name(f"{folder.name}.py")
    file.write_text(CONFIG.format(name=run.name, images=str(images)))
    code = train([f"--config={file}", f"--workdir={folder}"])
    if code:
        raise SystemExit(f"the training of {run.name} has ended with exit code {code}")


def judge_run(run: Run, images: Path, folder: Path) -> dict[str, Any]:
    """k-NN before the first step and after every eighth, linear accuracy at the end."""
    config = read_config(complete_config(make_config(run, images)))
    judge = Judge(config)
    every = run.steps // POINTS
    later = range(every, run.steps + 1, every)
    count = len(list((images / "train").glob("*/*")))
    network, variables = open_networks(config, folder, later, count)
    features, points = judge.features_of(network), []
    for step, one in zip((0, *later), variables, strict=True):
        train, test = features(one)
        point: dict[str, float] = {"step": step, "images": step * config.batch_size}
        point["knn"] = round(judge.nearest(train, test), 2)
        if step == run.steps:
            point["linear"] = round(judge.linear(train, test), 2)
        points.append(point)
    return {"points": points}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", choices=(*TUNING, *KEPT_ASIDE), required=True)
    parser.add_argument("--run", required=True, help="METHOD+FACTOR+…-STEPS-SEED, see factors.py")
    arguments = parser.parse_args()
    out, run = arguments.out.absolute(), parse_run(arguments.run)
    if run.name in read_results(out).get(arguments.set, {}):
        return
    images, folder = out / "sets" / arguments.set, out / "runs" / arguments.set / run.name
    before = cpu_seconds()
    train_run(run, images, folder)
    trained = cpu_seconds()
    result = {"method": run.method, "factors": run.factors, "steps": run.steps, "seed": run.seed}
    result |= {"cpu_seconds": round(trained - before, 1)} | judge_run(run, images, folder)
    add_result(out, arguments.set, run.name, result)
    first, last = result["points"][0], result["points"][-1]
    spent = f"{result['cpu_seconds']} CPU s, {cpu_seconds():.0f} with start and judge"
    print(f"{arguments.set} {run.name}: {first} -> {last}, {spent}")


if __name__ == "__main__":
    sys.exit(main())
