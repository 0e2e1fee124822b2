"""SupCon (arXiv:2004.11362): photographs of a product against all others of the batch."""

from dataclasses import dataclass
from functools import partial

from dino_jax.config.section import option
from dino_jax.objectives.of_pairs import OfPairs
from dino_jax.objectives.pairs import supervised_contrastive


@dataclass(frozen=True)
class Config:
    """Options of the loss "supcon"."""

    kind: str = option("supcon", "of the loss")
    temperature: float = option(0.1, "of the softmax over the batch", at_least=1e-3, at_most=1000)


def build(config: Config, learner: str) -> OfPairs:
    """Builds the objective."""
    return OfPairs(partial(supervised_contrastive, temperature=config.temperature), learner)
