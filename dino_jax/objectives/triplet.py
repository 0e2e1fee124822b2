"""Batch-hard triplets (arXiv:1703.07737): the farthest positive and the nearest negative."""

from dataclasses import dataclass
from functools import partial

from dino_jax.config.section import option
from dino_jax.objectives.of_pairs import OfPairs
from dino_jax.objectives.pairs import hard_triplet, soft_triplet


@dataclass(frozen=True)
class Config:
    """Options of the loss "triplet"."""

    kind: str = option("triplet", "of the loss")
    margin: float = option(
        0.15, "by which a negative is to be farther; 0: log(1 + exp(.))", at_least=0, at_most=4
    )


def build(config: Config, learner: str) -> OfPairs:
    """Builds the objective."""
    if not config.margin:
        return OfPairs(soft_triplet, learner)
    return OfPairs(partial(hard_triplet, margin=config.margin), learner)
