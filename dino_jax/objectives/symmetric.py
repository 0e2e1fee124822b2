"""Symmetric NT-Xent of plain pairs: each photograph finds its partner among those of the others.

Rows 2i and 2i + 1 of the batch are a pair.
"""

from dataclasses import dataclass

import jax

from dino_jax.config.section import option
from dino_jax.objectives.of_pairs import OfPairs
from dino_jax.objectives.pairs import Masks, symmetric_cross_entropy


@dataclass(frozen=True)
class Config:
    """Options of the loss "symmetric"."""

    kind: str = option("symmetric", "of the loss")
    temperature: float = option(0.1, "of the softmax over the batch", at_least=1e-3, at_most=1000)


def build(config: Config, learner: str) -> OfPairs:
    """Builds the objective."""

    def measure(similar: jax.Array, masks: Masks) -> jax.Array:
        del masks
        return symmetric_cross_entropy(similar[::2, 1::2], config.temperature)

    return OfPairs(measure, learner)
