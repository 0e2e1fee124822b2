"""NT-Xent (arXiv:2002.05709, Eq. 1): each pair of a product against the negatives of the batch."""

from dataclasses import dataclass
from functools import partial

from dino_jax.config.section import option
from dino_jax.objectives.of_pairs import OfPairs
from dino_jax.objectives.pairs import nt_xent


@dataclass(frozen=True)
class Config:
    """Options of the loss "ntxent"."""

    kind: str = option("ntxent", "of the loss")
    temperature: float = option(0.07, "of the softmax over the batch", at_least=1e-3, at_most=1000)


def build(config: Config, learner: str) -> OfPairs:
    """Builds the objective."""
    return OfPairs(partial(nt_xent, temperature=config.temperature), learner)
