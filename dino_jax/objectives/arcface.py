"""ArcFace with several centers per product (arXiv:1801.07698; Deng et al. 2020)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from dino_jax.config.section import option
from dino_jax.objectives.base import Needs, Outcome, Outputs
from dino_jax.objectives.classes import arcface, best_centers
from dino_jax.objectives.of_pairs import LABELS
from dino_jax.optim.schedules import Constant, Schedule

CLASSES = "classes"  # head that gives the cosines with the centers


@dataclass(frozen=True)
class Config:
    """Options of the loss "arcface"."""

    kind: str = option("arcface", "of the loss")
    margin: float = option(28.6, "in degrees; 0: softmax of cosines", at_least=0, at_most=90)
    scale: float = option(64.0, "of the cosines", above=0, at_most=1000)
    centers: int = option(3, "per product", at_least=1, at_most=100)


def build(config: Config, learner: str) -> "Arcface":
    """Builds the objective."""
    return Arcface(math.radians(config.margin), config.scale, config.centers, learner)


@dataclass(frozen=True)
class Arcface:
    """Tells products apart by learned centers, which nothing else uses.

    Attributes:
      margin: in radians.
      scale: of the cosines.
      centers: per product.
      learner: role that learns.
      weight: schedule of this objective's weight in the total loss.
    """

    margin: float
    scale: float
    centers: int
    learner: str = "student"
    weight: Schedule = Constant(1.0)

    @property
    def needs(self) -> Needs:
        return Needs(roles=(self.learner,), heads=(CLASSES,), groups=("global",))

    def init(self) -> dict[str, jax.Array]:
        return {}

    def __call__(
        self,
        branches: Mapping[str, Outputs],
        batch: dict[str, jax.Array],
        state: Any,
        step: jax.Array,
    ) -> Outcome:
        del step
        seen = branches[self.learner]
        similar = best_centers(seen.project(CLASSES, seen.features[0]["cls"]), self.centers)
        loss = arcface(similar, batch[LABELS], self.margin, self.scale)
        hits = jnp.argmax(similar, axis=1) == batch[LABELS]
        return Outcome(loss, state, {"loss": loss, "recall": jnp.mean(hits)})
