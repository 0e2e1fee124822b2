"""Reads damaged inputs with every reader and counts what happens.

  python -m tests.fuzz [--inputs=5000] [--seed=0] [--readers=tar,image] [--keep=FOLDER]

An outcome is right if it is a value or the reader's documented error. Anything else is printed
with the command that makes the same input again, and the input is kept: another exception, a word
on stderr, more than 10 s of CPU time, more than 1.5 GiB, the end of the process, or two minutes of
waiting.
"""

import argparse
import collections
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.fuzz.readers import READERS

SILENT_SECONDS = 120  # after which a process is looked at


def run(tasks: list[tuple[str, int, int, int]], keep: Path | None) -> dict[str, dict[str, Any]]:
    """Reads inputs in other processes; a new one begins after the input that killed the last.

    Args:
      tasks: (reader, seed, first input, number of inputs).
      keep: where inputs are kept that were not right; None: nowhere.

    Returns:
      By reader: "value", "error" and "failure", their numbers; "failures", a text for each; and the
      largest "seconds" of CPU time and "bytes" by which the memory grew.
    """
    totals: dict[str, dict[str, Any]] = collections.defaultdict(
        lambda: {"value": 0, "error": 0, "failure": 0, "failures": [], "seconds": 0.0, "bytes": 0}
    )
    with tempfile.TemporaryDirectory(prefix="fuzz") as place:
        folder = Path(place, "f")
        while tasks:
            current: dict[str, Any] = {}
            for line in _talk(folder, tasks):
                if "reader" in line:
                    current = line
                    continue
                _count(totals[current["reader"]], line, current, tasks[0][1], folder, keep)
                tasks = _rest(tasks, current)
                current = {}
            if current:  # the process has ended, or was ended, in the middle
                line = {"outcome": "failure", "what": "the process has died or is stuck"}
                line |= {"seconds": 0.0, "bytes": 0}
                _count(totals[current["reader"]], line, current, tasks[0][1], folder, keep)
                tasks = _rest(tasks, current)
    return dict(totals)


def _talk(folder: Path, tasks: list[tuple[str, int, int, int]]) -> Iterator[dict[str, Any]]:
    """The lines of a worker until it ends or is silent for too long."""
    command = [sys.executable, "-m", "tests.fuzz.worker", str(folder)]
    command += [":".join(map(str, task)) for task in tasks]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)}
    with subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_forward, args=(process.stdout, lines), daemon=True).start()
        last, line = _times(process.pid), " "
        while line:
            try:
                line = lines.get(timeout=SILENT_SECONDS)
                if line:
                    yield json.loads(line)
            except queue.Empty:
                now = _times(process.pid)
                if _is_stuck(last, now):
                    break
                last = now
        process.kill()


def _times(pid: int) -> tuple[str, float]:
    """State of a process and its seconds of CPU time; proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0], (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _is_stuck(before: tuple[str, float], now: tuple[str, float]) -> bool:
    """Whether a silent process waits without doing anything, or computes where no alarm helps.

    One that only waits for its turn on a busy machine is neither.
    """
    waits = now[0] == "S" and now[1] == before[1]
    return waits or now[1] - before[1] > SILENT_SECONDS / 2


def _forward(stream: Any, lines: queue.Queue) -> None:
    for line in stream:
        if line.startswith("{"):
            lines.put(line)
    lines.put("")


def _count(
    total: dict[str, Any],
    line: dict[str, Any],
    current: dict[str, Any],
    seed: int,
    folder: Path,
    keep: Path | None,
) -> None:
    total[line["outcome"]] += 1
    total["seconds"] = max(total["seconds"], line["seconds"])
    total["bytes"] = max(total["bytes"], line["bytes"])
    if line["outcome"] != "failure":
        return
    reader, number = current["reader"], current["number"]
    again = f"python -m tests.fuzz --seed={seed} --readers={reader} --first={number} --inputs=1"
    total["failures"].append(f"{again}\n{line['what']}")
    if keep is not None:
        _keep(folder, keep / f"{reader}-{seed}-{number}")


def _keep(folder: Path, place: Path) -> None:
    """Copies what can be copied: no pipes, no terabytes of nothing."""
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_size < 1 << 24:
            target = place / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def _rest(
    tasks: list[tuple[str, int, int, int]], done: dict[str, Any]
) -> list[tuple[str, int, int, int]]:
    """What is left after an input."""
    place = next(i for i, task in enumerate(tasks) if task[0] == done["reader"])
    reader, seed, first, count = tasks[place]
    used = done["number"] + 1 - first
    rest = [(reader, seed, first + used, count - used)] if used < count else []
    return rest + tasks[place + 1 :]


def divide(inputs: int, seed: int, readers: list[str], first: int = 0) -> list[Any]:
    """Tasks with at least one input for each reader, by their weights."""
    weights = sum(READERS[name].weight for name in readers)
    return [
        (name, seed, first, max(1, round(inputs * READERS[name].weight / weights)))
        for name in readers
    ]


def describe(totals: dict[str, dict[str, Any]]) -> str:
    """A table, and the failures below it."""
    lines = [f"{'reader':12} inputs  values  errors  failures  max CPU s  max MiB more"]
    for name, total in totals.items():
        count = total["value"] + total["error"] + total["failure"]
        lines.append(
            f"{name:12} {count:6} {total['value']:7} {total['error']:7} {total['failure']:9} "
            f"{total['seconds']:10.2f} {total['bytes'] / 2**20:13.0f}"
        )
    failures = [text for total in totals.values() for text in total["failures"]]
    return "\n".join([*lines, *failures])


def main() -> int:
    """Runs the command line; 1 if something was not right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--readers", default=",".join(READERS))
    parser.add_argument("--keep", default="fuzz_failures")
    given = parser.parse_args()
    tasks = divide(given.inputs, given.seed, given.readers.split(","), given.first)
    totals = run(tasks, Path(given.keep).absolute())
    print(describe(totals))
    return int(any(total["failure"] for total in totals.values()))


if __name__ == "__main__":
    sys.exit(main())
