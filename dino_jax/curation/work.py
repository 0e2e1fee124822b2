"""The folder of one step of curation: its options, what is done of it, its result.

Everything in it is CSV, JSON, text or .npy. Each file appears whole, so a command that was stopped
anywhere, also by kill -9, goes on with the files that are there; report.json is the last one.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from dino_jax.curation.pool import Pool, load_array
from dino_jax.data.building.output_folder import open_folder, write_text
from dino_jax.foreign.json_text import read_json
from dino_jax.workdir.paths import written_whole

PLAN = "curate.json"
REPORT = "report.json"
STEPS = "steps"  # what is removed when the result is there
MOST_REPORT = 1 << 26  # bytes


class Work:
    """Files of a step by name.

    Attributes:
      out: the folder, local or remote.
    """

    def __init__(self, out: str, options: dict[str, Any], pools: dict[str, Pool]):
        """Makes the folder, or finds what an earlier start has left there.

        Args:
          out: the folder.
          options: options that determine the result.
          pools: what it is made from, by the option that names it.

        Raises:
          ValueError: if it belongs to other options or rows, or holds something else.
          OSError: if it can't be made.
        """
        self.out = out
        facts = {f"rows of {name}": [len(pool), pool.digest] for name, pool in pools.items()}
        first: Any = _Named(next(iter(pools.values())))
        open_folder(out, PLAN, options | facts, first, "curation")

    @property
    def is_done(self) -> bool:
        return (epath.Path(self.out) / REPORT).exists()

    def path(self, name: str) -> str:
        return f"{self.out}/{name}"

    def has(self, name: str) -> bool:
        return epath.Path(self.path(name)).exists()

    def load(self, name: str) -> np.ndarray:
        """Reads an .npy file of the folder."""
        return load_array(self.path(name))

    def save(self, name: str, array: np.ndarray) -> None:
        """Writes an .npy file of the folder, whole or not at all."""
        save_array(self.path(name), array)

    def remove(self, name: str) -> None:
        """Removes a file of the folder, if it is there."""
        epath.Path(self.path(name)).unlink(missing_ok=True)

    def write(self, name: str, text: str) -> None:
        """Writes a text, whole or not at all."""
        write_text(self.path(name), text)

    def finish(self, report: dict[str, Any]) -> None:
        """Writes the report and removes what is only needed to go on."""
        write_text(self.path(REPORT), json.dumps(report, indent=1) + "\n")
        self.clean()

    def clean(self) -> None:
        """Removes what a finished step does not need any more."""
        steps = epath.Path(self.path(STEPS))
        if steps.exists():
            steps.rmtree()

    def report(self) -> dict[str, Any]:
        """What `finish` has written."""
        return read_json(self.path(REPORT), MOST_REPORT)


class _Named:
    """The rows of a pool as `open_folder` compares them."""

    def __init__(self, pool: Pool):
        self._pool = pool
        self.class_names = ()

    def __len__(self) -> int:
        return self._pool.total

    def name(self, index: int) -> str:
        return self._pool.identity(index)


def save_array(path: str, array: np.ndarray) -> None:
    """Writes an .npy file, whole or not at all, and the folder it lies in."""
    if "://" not in path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as place, Path(place).open("wb") as file:
        np.save(file, array)
