"""Single flipped bits in the files of a checkpoint: python -m tests.flipped_bits --flips=300.

Each one must be noticed, so that the checkpoint before is used, or must change nothing that is
restored.
"""

import argparse
import collections
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dino_jax.workdir import checkpointing
from tests.workdir.test_checkpointing import abstract_state, init_state, restore, write_run

OLDER, NEWER = 2, 4  # steps of the two checkpoints


def as_bytes(tree: Any) -> list[bytes]:
    keys_as_words = (
        jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        for x in jax.tree.leaves(tree)
    )
    return [np.asarray(x).tobytes() for x in keys_as_words]


def resume(workdir: Path) -> Any:
    return restore(workdir)[0]


def load_teacher(workdir: Path) -> Any:
    return checkpointing.load_network(workdir, abstract_state().networks["teacher"])


def read_teacher(workdir: Path) -> Any:
    return checkpointing.read_network(workdir)[0]


WAYS: dict[str, Callable[[Path], Any]] = {
    "resume": resume,
    "load": load_teacher,
    "export": read_teacher,
}


def flip(file: Path, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


def count_outcomes(
    flips: int, seed: int, folder: Path, say: Callable[[str], object]
) -> collections.Counter[str]:
    """Flips bits one after the other in files chosen at random.

    Returns:
      How many were "noticed", "harmless" or "silent", of every way to read.
    """
    rng = random.Random(seed)
    write_run(folder / "sound", steps=NEWER)
    whole = {step: init_state(step) for step in (OLDER, NEWER)}
    outcomes: collections.Counter[str] = collections.Counter()
    checkpoint = folder / "sound/checkpoints" / str(NEWER)
    files = [p for p in sorted(checkpoint.rglob("*")) if p.is_file() and p.stat().st_size]
    for number in range(flips):
        file = files[number % len(files)]
        bit = rng.randrange(8 * file.stat().st_size)
        for way, read in WAYS.items():
            run = shutil.copytree(folder / "sound", folder / f"{number}_{way}")
            flip(run / file.relative_to(folder / "sound"), bit)
            got = as_bytes(read(run))
            expected = {
                step: as_bytes(state if way == "resume" else state.networks["teacher"])
                for step, state in whole.items()
            }
            outcome = {tuple(expected[NEWER]): "harmless", tuple(expected[OLDER]): "noticed"}.get(
                tuple(got), "silent"
            )
            outcomes[outcome] += 1
            say(f"bit {bit} of {file.relative_to(checkpoint)}: {way}: {outcome}")
            shutil.rmtree(run)
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = count_outcomes(options.flips, options.seed, Path(folder), print)
    print(dict(outcomes))
    if outcomes["silent"]:
        raise SystemExit("silent damage")


if __name__ == "__main__":
    main()
