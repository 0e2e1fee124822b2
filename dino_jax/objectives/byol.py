"""BYOL (arXiv:2006.07733): predict the teacher's projection of the other view; no negatives."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from dino_jax.config.section import option
from dino_jax.objectives.base import Context, Needs, Outcome, Outputs
from dino_jax.objectives.prediction import (
    Prediction,
    PredictionConfig,
    build_prediction,
    sum_over_views,
)
from dino_jax.optim.schedules import Constant, Schedule

NORM_FLOOR = 1e-6  # official: squared norms are at least 1e-12


@dataclass(frozen=True)
class Config(PredictionConfig):
    """A section of `config.objectives` of kind "byol"."""

    kind: str = option("byol", "of the objective")


def build(where: str, config: Config, context: Context) -> "ByolObjective":
    """Builds the objective.

    Raises:
      ValueError: as `build_prediction`.
    """
    prediction = build_prediction(where, config, context, NORM_FLOOR)
    return ByolObjective(Constant(config.weight), prediction)


def regression_loss(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """Squared distance of unit vectors, 2 - 2 cos (Eq. 2): [B, D] and [B, D] -> [B].

    Written as the sum of squares: a vector of length 0 has the distance 1 of its target.
    """
    return jnp.sum(jnp.square(predictions - targets), axis=-1)


@dataclass(frozen=True)
class ByolObjective:
    """Distance of predictions and targets of different views, both directions summed: 0 to 8.

    Attributes:
      weight: schedule of this objective's weight in the total loss.
      prediction: heads and networks.
    """

    weight: Schedule
    prediction: Prediction = Prediction(floor=NORM_FLOOR)

    @property
    def needs(self) -> Needs:
        """A loss of single images; BatchNorm sees each view by itself, as in the official code."""
        return self.prediction.needs(whole_batch=False)

    def init(self) -> dict[str, jax.Array]:
        return {}

    def __call__(
        self,
        branches: Mapping[str, Outputs],
        batch: dict[str, jax.Array],
        state: Any,
        step: jax.Array,
    ) -> Outcome:
        del batch, step
        predictions, targets, measures = self.prediction(branches)

        def compare(q: jax.Array, k: jax.Array) -> jax.Array:
            return jnp.mean(regression_loss(q, k))

        loss = sum_over_views(compare, predictions, targets)
        return Outcome(loss, state, {"loss": loss, **measures})
