"""MoCo v3 (arXiv:2104.02057): a query finds the teacher's key of the other view of its image.

The other keys of the batch are the negatives; there is no queue.
"""

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

NORM_FLOOR = 1e-12  # torch.nn.functional.normalize


@dataclass(frozen=True)
class Config(PredictionConfig):
    """A section of `config.objectives` of kind "mocov3"."""

    kind: str = option("mocov3", "of the objective")
    temperature: float = option(
        0.2, "of the softmax over the batch; 1 for ResNets", at_least=1e-3, at_most=1000
    )


def build(where: str, config: Config, context: Context) -> "Mocov3Objective":
    """Builds the objective.

    Raises:
      ValueError: as `build_prediction`.
    """
    prediction = build_prediction(where, config, context, NORM_FLOOR)
    return Mocov3Objective(Constant(config.weight), config.temperature, prediction)


def contrastive_loss(
    queries: jax.Array, keys: jax.Array, temperature: float
) -> tuple[jax.Array, jax.Array]:
    """InfoNCE with the keys of the other view as candidates, times 2 T (Algorithm 1).

    Args:
      queries: [B, D] float32 of length 1.
      keys: [B, D], likewise; row i is the positive of query i.
      temperature: T of the softmax, > 0.

    Returns:
      Two scalars: the loss, and the share of the queries whose most similar key is the right one.
    """
    cosines = jnp.einsum("id,jd->ij", queries, keys, precision="highest")
    log_shares = jax.nn.log_softmax(cosines / temperature, axis=-1)
    hits = jnp.argmax(cosines, axis=-1) == jnp.arange(len(queries))
    return -2 * temperature * jnp.mean(jnp.diagonal(log_shares)), jnp.mean(hits)


@dataclass(frozen=True)
class Mocov3Objective:
    """InfoNCE of queries and keys of different views, both directions summed.

    Attributes:
      weight: schedule of this objective's weight in the total loss.
      temperature: of the softmax over the batch.
      prediction: heads and networks.
    """

    weight: Schedule
    temperature: float = 0.2
    prediction: Prediction = Prediction(floor=NORM_FLOOR)

    @property
    def needs(self) -> Needs:
        """BatchNorm sees each view by itself, as in the official code."""
        return self.prediction.needs(whole_batch=True)

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
        queries, keys, measures = self.prediction(branches)

        def compare(q: jax.Array, k: jax.Array) -> jax.Array:
            return jnp.stack(contrastive_loss(q, k, self.temperature))

        loss, accuracy = sum_over_views(compare, queries, keys)
        return Outcome(loss, state, {"loss": loss, "accuracy": accuracy / 2, **measures})
