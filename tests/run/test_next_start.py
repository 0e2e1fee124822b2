"""After kill -9 a run goes on without compiling what it has compiled before, counted by jax."""

import re
import signal
from pathlib import Path

from tests.run_train import QUICKSTART, SMALL, STEPS, Train, overrides

LESS = SMALL | {"runtime.workers": 0, "probes.count": 0, "runtime.writers": "()"}
LINE = re.compile(r"first step .*; (\d+) of (\d+) programs so far from the compilation cache")


def start(tmp_path: Path, until: str, devices: int = 1) -> tuple[int, int, set[str]]:
    """A start of the run, killed at a line.

    Returns:
      How many programs it found, how many it needed to the first step, and the names of all
      programs that are kept afterwards.
    """
    arguments = [QUICKSTART, f"--workdir={tmp_path / 'run'}", *overrides(LESS)]
    # jax sets the second in this process; with less than 3 XLA reports errors where there are none.
    cache = {"XDG_CACHE_HOME": str(tmp_path), "TF_CPP_MIN_LOG_LEVEL": "3"}
    with Train(*arguments, devices=devices, environment=cache) as process:
        process.wait_for(until)
        process.send_to_all(signal.SIGKILL)
        finished = process.finish()
    found, needed = LINE.search(finished.out).groups()
    kept = {path.name for path in (tmp_path / "dino_jax").glob("compiled/*-cache")}
    return int(found), int(needed), kept


def test_after_kill_9_nothing_is_compiled_again(tmp_path):
    found, needed, first = start(tmp_path, f"step 3/{STEPS}")
    assert found == 0 and 0 < needed <= len(first)
    found, needed, second = start(tmp_path, f"step 4/{STEPS}")  # resumes, as the third does
    new = second - first
    assert needed - found == len(new)  # programs that a new run does not need
    found, needed, third = start(tmp_path, f"step 5/{STEPS}")
    assert found == needed and third == second
