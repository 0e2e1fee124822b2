"""Symmetric NT-Xent of plain pairs: each photograph finds its partner among those of the others."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from dino_jax.config.section import option
from dino_jax.objectives.base import Needs, Outcome, Outputs
from dino_jax.objectives.of_pairs import LABELS, batch_recall
from dino_jax.objectives.pairs import cosines, match, symmetric_cross_entropy
from dino_jax.optim.schedules import Constant, Schedule


@dataclass(frozen=True)
class Config:
    """Options of the loss "symmetric"."""

    kind: str = option("symmetric", "of the loss")
    temperature: float = option(0.1, "of the softmax over the batch", at_least=1e-3, at_most=1000)


def build(config: Config, learner: str) -> "Symmetric":
    """Builds the objective."""
    return Symmetric(config.temperature, learner)


@dataclass(frozen=True)
class Symmetric:
    """Rows 2i and 2i + 1 of the batch are a pair; under jit the batch is that of all devices.

    Attributes:
      temperature: of the softmax.
      learner: role that learns.
      weight: schedule of this objective's weight in the total loss.
    """

    temperature: float
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
        loss = symmetric_cross_entropy(vectors[::2], vectors[1::2], self.temperature)
        recall = batch_recall(cosines(vectors, vectors), match(batch[LABELS]))
        return Outcome(loss, state, {"loss": loss, "recall": recall})
