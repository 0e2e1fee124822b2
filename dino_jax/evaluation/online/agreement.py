"""Share of an image's nearest neighbors that are the same as when the run started; no labels.

Neighbors by cosine similarity of the cls tokens (mutual k-NN alignment, arXiv:2405.07987, Section
3). "agreementK/ROLE" is 1 for the first model itself, k / (N - 1) for an unrelated one. It measures
change, not quality: training towards better features lowers it too, but far less than destroying
them. The neighbors in the first model are kept in `workdir/first_neighbours/NAME.json`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath

from dino_jax.commands.command_line import user_errors
from dino_jax.config.range import MOST_EPOCHS
from dino_jax.config.section import option
from dino_jax.data.sources import ImagesConfig
from dino_jax.evaluation.neighbours import nearest_neighbours, shared_neighbours
from dino_jax.evaluation.online.base import (
    HELD_OUT,
    Context,
    EvaluationConfig,
    Images,
    Metrics,
    Reference,
    Variables,
    check_common,
    check_neighbours,
)
from dino_jax.workdir.layout import FIRST_NEIGHBOURS
from dino_jax.workdir.paths import write_atomically
from dino_jax.workdir.side_files import DamagedFileError, read_side_file

IMAGES = {"images": "any images"}
GUARDS = True


@dataclass(frozen=True)
class Config(EvaluationConfig):
    kind: str = option("agreement", "neighbors kept since the start; needs no labels")
    every_epochs: float = option(
        0.0, "between two measurements; 0: the guard's only", at_least=0, at_most=MOST_EPOCHS
    )
    images: ImagesConfig = option(HELD_OUT, "any images; labels are not read")
    max_images: int = option(10_000, "more are left out, evenly", at_least=1)
    k: int = option(10, "neighbors to compare", at_least=1, at_most=10_000)


def check(where: str, config: Any, context: Context) -> None:
    """Runs the checks that need no images; raises ValueErrors as in `check_common`."""
    check_common(where, config, context)


def build(where: str, config: Any, context: Context) -> "Agreement":
    """Opens the images.

    Args:
      where: name of the section, for messages.
      config: config of the evaluation.
      context: context of the run.

    Raises:
      ValueError: if there are too few images.
      OSError: if there are none.
    """
    images = context.open_images(f"{where}.images", config.images, config, config.max_images)
    check_neighbours(where, config.k, images, "images")
    return Agreement(where, config, context, images)


class Agreement:
    """See the top of this file."""

    def __init__(self, where: str, config: Any, context: Context, images: Images):
        """Makes an evaluation without a first model yet."""
        self._where, self._k = where, config.k
        self._context, self._images = context, images
        self._roles = context.roles(config)
        self._first: dict[str, np.ndarray] | None = None
        self._file = context.folder / FIRST_NEIGHBOURS / f"{where.rpartition('.')[2]}.json"
        self.guarded = f"agreement{self._k}/{context.evaluated}"

    def __call__(self, step: int, networks: Mapping[str, Variables]) -> Metrics:
        now = {role: self._neighbours(role, networks[role]) for role in self._roles}
        if step == 0:
            self._first = now
            _write(self._file, now)
        with user_errors():
            if self._first is None:
                self._first = _read(self._file)
            shared = {
                role: self._shared(self._first[role], now[role])
                for role in now
                if role in self._first
            }
        return {f"agreement{self._k}/{role}": share for role, share in shared.items()}

    def reference(self, variables: Variables, known: Metrics) -> Reference:
        del known
        neighbours = self._neighbours(self._context.evaluated, variables)
        return {"value": 1.0, "neighbours": neighbours.tolist()}

    def value(self, variables: Variables, reference: Reference, known: Metrics) -> float:
        if self.guarded in known:
            return known[self.guarded]
        now = self._neighbours(self._context.evaluated, variables)
        return self._shared(np.asarray(reference["neighbours"]), now)

    def _neighbours(self, role: str, variables: Variables) -> np.ndarray:
        """[N, k]"""
        features = self._context.features(role, variables, self._images).features
        return nearest_neighbours(features, self._k)

    def _shared(self, before: np.ndarray, now: np.ndarray) -> float:
        if before.shape != now.shape:
            raise ValueError(
                f"the readable images of {self._where}.images are no longer those of the start: "
                f"{len(before)} then, {len(now)} now"
            )
        return shared_neighbours(before, now)


def _write(file: epath.Path, neighbours: Mapping[str, np.ndarray]) -> None:
    if jax.process_index() == 0:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps({role: x.tolist() for role, x in neighbours.items()}))


def _read(file: epath.Path) -> dict[str, np.ndarray]:
    """The neighbours in the first model by role; {} if they are lost, which is said."""
    lost = "agreement with the first model is not measured any more"
    if not file.exists() and jax.process_index() == 0:
        logging.warning("%s is missing: %s", file, lost)
    return read_side_file(file, _parse, {}, so=lost)


def _parse(text: str) -> dict[str, np.ndarray]:
    found = {role: np.asarray(rows) for role, rows in json.loads(text).items()}
    if not all(rows.ndim == 2 and rows.dtype.kind == "i" for rows in found.values()):
        raise DamagedFileError("these are no tables of neighbours")
    return found
