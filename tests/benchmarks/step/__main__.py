"""Speed of the train step: python -m tests.benchmarks.step cpu|tpu …

cpu  our step against a plain PyTorch step of the same work, float32, on one pinned core: the sides
     take turns, medians of CPU seconds, peak memory of the processes. Losses on the same weights
     and crops are compared before anything is timed. Needs pip install -e '.[parity]'.
tpu  the TPU compiler's own count, for slices that need not be there. Cycles of XLA's own operations
     are its estimates, elementwise ones three times too high; those of the kernels are the bundles
     of instructions that it makes of them. Nothing runs. Needs pip install -e '.[tpu]'.
"""

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from dino_jax.run.whole_config import read_config
from tests.benchmarks.step.cases import CPU_CASES

WARM_UP = 2  # steps whose losses are compared
TOLERANCE = 1e-4  # relative, of the losses


class Side:
    """A worker process."""

    def __init__(self, name: str, case: str, options: dict, folder: str):
        one_thread = {
            "OMP_NUM_THREADS": "1",
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
        }
        worker = [sys.executable, "-m", "tests.benchmarks.step.worker"]
        self.name = name
        self._process = subprocess.Popen(
            [*worker, name, case, json.dumps(options), folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **one_thread},
        )
        self.compile_seconds = self._read()["compile"]
        self.losses: list[float] = []
        self.seconds: list[float] = []
        self.peak = 0.0  # MiB

    def step(self, index: int) -> None:
        stdin = self._process.stdin
        if stdin is None:
            raise RuntimeError("the worker has no input")
        stdin.write(json.dumps({"step": index}) + "\n")
        stdin.flush()
        answer = self._read()
        self.losses.append(answer["loss"])
        self.seconds.append(answer["seconds"])
        self.peak = answer["peak"]

    def close(self) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait()

    def _read(self) -> dict:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise SystemExit(f"the worker of {self.name} has ended, see above")
        return json.loads(line)


def compare(case: str, options: dict, steps: int) -> str:
    """Runs both sides in turn; a row of the table.

    Raises:
      SystemExit: if the two do not compute the same.
    """
    with tempfile.TemporaryDirectory() as folder:
        cached = {**options, "cache": str(Path(folder) / "cache")}
        first = Side("ours", case, cached, folder)  # fills the cache and writes the weights
        first.close()
        sides = [Side("ours", case, cached, folder), Side("torch", case, {}, folder)]
        for index in range(WARM_UP + steps):
            for side in sides:
                side.step(index)
        for side in sides:
            side.close()
    ours, plain = sides
    error = max(
        abs(a - b) / abs(b)
        for a, b in zip(ours.losses[:WARM_UP], plain.losses[:WARM_UP], strict=True)
    )
    if error > TOLERANCE:
        raise SystemExit(f"{case}: the losses differ, {ours.losses} and {plain.losses}")
    medians = [statistics.median(side.seconds[WARM_UP:]) for side in sides]
    described = " ".join(f"{name}={value}" for name, value in options.items()) or "-"
    return (
        f"| {CPU_CASES[case].title} | {described} | {medians[1]:.3f} | {medians[0]:.3f} | "
        f"**{medians[1] / medians[0]:.2f}** (goal {CPU_CASES[case].goal}) | {plain.peak:.0f} | "
        f"{ours.peak:.0f} | {ours.peak / plain.peak:.2f} | {first.compile_seconds:.0f} | "
        f"{ours.compile_seconds:.1f} | {error:.1e} |"
    )


CPU_HEADER = (
    "| case | options | torch, CPU s | ours, CPU s | ratio | torch, MiB | ours, MiB | ratio | "
    "compile, CPU s | from the cache | losses differ by |"
)


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m tests.benchmarks.step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    cpu = commands.add_parser("cpu")
    cpu.add_argument("cases", nargs="*", default=sorted(CPU_CASES), help=str(sorted(CPU_CASES)))
    cpu.add_argument("--steps", type=int, default=9)
    tpu = commands.add_parser("tpu")
    tpu.add_argument("topology", nargs="+", help="such as v5e:4x4")
    tpu.add_argument("--config", default="vits16_vanilla", help="a module of configs")
    tpu.add_argument("--per_chip", type=int, default=64, help="images")
    for command in (cpu, tpu):
        command.add_argument(
            "--option", action="append", default=[], help="config key=value, JSON; several"
        )
    arguments = parser.parse_args()
    pairs = (option.split("=", 1) for option in arguments.option)
    options = {name: json.loads(value) for name, value in pairs}
    if arguments.command == "cpu":
        print_table(
            CPU_HEADER, (compare(case, options, arguments.steps) for case in arguments.cases)
        )
    else:
        from tests.benchmarks.step import tpu as by_compiler

        config = importlib.import_module(f"configs.{arguments.config}").get_config()
        config.update_from_flattened_dict(options)
        rows = (
            by_compiler.measure(read_config(config), topology, arguments.per_chip)
            for topology in arguments.topology
        )
        print_table(by_compiler.HEADER, rows)


def print_table(header: str, rows: Iterable[str]) -> None:
    print(header + "\n|" + " --- |" * (header.count("|") - 1))
    for row in rows:
        print(row, flush=True)


if __name__ == "__main__":
    main()
