"""Objectives of `dino-jax tune` that compare photographs of a batch with each other by label."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from dino_jax.objectives.base import Needs, Outcome, Outputs
from dino_jax.objectives.pairs import Masks, cosines, match
from dino_jax.optim.schedules import Constant, Schedule

LABELS = "labels"  # entry of the batch: int32 [B], equal for photographs of one product


@dataclass(frozen=True)
class OfPairs:
    """A loss of the cosines between the cls tokens of a batch.

    Under jit the batch is that of all devices.

    Attributes:
      measure: ([B, B] cosines, masks) -> loss.
      learner: role that learns.
      weight: schedule of this objective's weight in the total loss.
    """

    measure: Callable[[jax.Array, Masks], jax.Array]
    learner: str = "student"
    weight: Schedule = Constant(1.0)

    @property
    def needs(self) -> Needs:
        return Needs(roles=(self.learner,), groups=("global",), whole_batch=True)

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
        vectors = branches[self.learner].features[0]["cls"]
        similar, masks = cosines(vectors, vectors), match(batch[LABELS])
        loss = self.measure(similar, masks)
        return Outcome(loss, state, {"loss": loss, "recall": batch_recall(similar, masks)})


def batch_recall(similar: jax.Array, masks: Masks) -> jax.Array:
    """Share of the rows with a positive whose nearest other row is one."""
    others = jnp.where(masks.positives | masks.negatives, similar, -jnp.inf)
    hits = jnp.take_along_axis(masks.positives, jnp.argmax(others, axis=1)[:, None], axis=1)[:, 0]
    having = jnp.any(masks.positives, axis=1)
    return jnp.sum(hits & having) / jnp.maximum(jnp.sum(having), 1)
