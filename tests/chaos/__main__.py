"""Trainings that are killed, torn, shrunk and grown at random: python -m tests.chaos --rounds=20.

A round starts the real command on some number of processes and devices, lets it train for some
steps and then does something bad to it. After every few rounds the run is left alone until its end
and must be the run that nothing disturbed: every step once, the same losses, the same teacher.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

from tests.chaos.faults import KINDS
from tests.chaos.play import play


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rounds, deviations = play(
            options.rounds, options.seed, Path(folder), partial(print, flush=True)
        )
    for kind in KINDS:
        ours = [played for played in rounds if played.kind == kind]
        lost = [played.lost_steps for played in ours if played.lost_steps is not None]
        print(f"{kind:22} {len(ours)} rounds, steps lost {lost}")
    print(f"largest deviation: loss {max(d.loss for d in deviations):.1e} relative, ", end="")
    print(f"teacher {max(d.teacher for d in deviations):.1e} absolute")


if __name__ == "__main__":
    main()
