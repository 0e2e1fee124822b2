"""Multi-similarity (arXiv:1904.06627): hard pairs of the batch count more."""

from dataclasses import dataclass

import jax

from dino_jax.config.section import option
from dino_jax.objectives.of_pairs import OfPairs
from dino_jax.objectives.pairs import Masks, mine, multi_similarity


@dataclass(frozen=True)
class Config:
    """Options of the loss "multi_similarity"."""

    kind: str = option("multi_similarity", "of the loss")
    alpha: float = option(2.0, "sharpness among positives", above=0, at_most=1e4)
    beta: float = option(50.0, "sharpness among negatives", above=0, at_most=1e4)
    base: float = option(0.5, "cosine about which both turn", at_least=-1, at_most=1)
    mined: bool = option(True, "only pairs from which there is something to learn")
    epsilon: float = option(0.1, "how much easier than the hardest a pair may be", at_least=0)


def build(config: Config, learner: str) -> OfPairs:
    """Builds the objective."""

    def measure(similar: jax.Array, masks: Masks) -> jax.Array:
        counted = mine(similar, masks, config.epsilon) if config.mined else masks
        return multi_similarity(similar, counted, config.alpha, config.beta, config.base)

    return OfPairs(measure, learner)
