"""Speed of the train step: python -m tests.benchmarks.step cpu|tpu …

cpu  our step, in float32 and in bfloat16, against PyTorch steps of the same work, plain and in
     faster forms, on one pinned core: the sides take turns, medians of CPU seconds, peak memory of
     the processes. Losses on the same weights and crops are compared before anything is timed.
     Needs pip install -e '.[parity]'.
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
from tests.benchmarks.step.torch_variants import VARIANTS

WARM_UP = 2  # steps whose losses are compared
TOLERANCE = 1e-4  # relative, of the losses in float32
ROUNDED_TOLERANCE = 1e-2  # of those in bfloat16
OURS = ("float32", "bfloat16")


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


def compare(case: str, options: dict, steps: int, variants: list[str]) -> Iterable[str]:
    """Runs our two steps and one of PyTorch in turn; a row of the table for each of PyTorch's.

    Raises:
      SystemExit: if they do not compute the same.
    """
    described = " ".join(f"{name}={value}" for name, value in options.items()) or "-"
    with tempfile.TemporaryDirectory() as folder:
        exact, rounded = (
            {**options, "network.dtype": dtype, "cache": str(Path(folder) / dtype)}
            for dtype in OURS
        )
        # The float32 side is last: both write the same weights and crops.
        first = [Side("ours", case, given, folder) for given in (rounded, exact)]
        for side in first:
            side.close()
        for variant in variants:
            sides = [
                Side("ours", case, exact, folder),
                Side("ours", case, rounded, folder),
                Side("torch", case, {"variant": variant}, folder),
            ]
            for index in range(WARM_UP + steps):
                for side in sides:
                    side.step(index)
            for side in sides:
                side.close()
            yield _row(case, described, variant, sides, [x.compile_seconds for x in first][::-1])


def _row(case: str, options: str, variant: str, sides: list[Side], compiling: list[float]) -> str:
    errors = [_difference(side, sides[0]) for side in sides]
    bounds = (
        TOLERANCE,
        ROUNDED_TOLERANCE,
        ROUNDED_TOLERANCE if VARIANTS[variant].bfloat16 else TOLERANCE,
    )
    if any(error > bound for error, bound in zip(errors, bounds, strict=True)):
        raise SystemExit(f"{case}, {variant}: losses differ, {[side.losses for side in sides]}")
    ours, ours_rounded, theirs = (statistics.median(side.seconds[WARM_UP:]) for side in sides)
    peaks = " / ".join(f"{side.peak:.0f}" for side in sides)
    return (
        f"| {CPU_CASES[case].title} | {options} | {VARIANTS[variant].title} | {theirs:.3f} | "
        f"{ours:.3f} | **{theirs / ours:.2f}** | {ours_rounded:.3f} | "
        f"**{theirs / ours_rounded:.2f}** | {peaks} | "
        f"{' / '.join(f'{seconds:.0f}' for seconds in compiling)} | {errors[2]:.1e} |"
    )


def _difference(side: Side, exact: Side) -> float:
    """Relative, of the losses of the first steps."""
    pairs = zip(side.losses[:WARM_UP], exact.losses[:WARM_UP], strict=True)
    return max(abs(loss - wanted) / abs(wanted) for loss, wanted in pairs)


CPU_HEADER = (
    "| case | options | PyTorch | its CPU s | ours, float32 | its / ours | ours, bfloat16 | "
    "its / ours | MiB: float32 / bfloat16 / PyTorch | compile, CPU s | losses differ by |"
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
    cpu.add_argument("--variants", nargs="*", default=list(VARIANTS), help=str(list(VARIANTS)))
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
        rows = (
            row
            for case in arguments.cases
            for row in compare(case, options, arguments.steps, arguments.variants)
        )
        print_table(CPU_HEADER, rows)
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
