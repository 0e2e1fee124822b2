"""The losses of `dino-jax tune`: a new one is one file and one line of this table."""

from collections.abc import Mapping
from typing import Any

from dino_jax.config.section import section
from dino_jax.objectives import arcface, multi_similarity, ntxent, supcon, symmetric, triplet
from dino_jax.objectives.base import Objective

# Modules with a dataclass `Config` and `build(config, learner) -> Objective`; batches have labels.
LOSSES: dict[str, Any] = {
    "supcon": supcon,
    "symmetric": symmetric,
    "ntxent": ntxent,
    "multi_similarity": multi_similarity,
    "triplet": triplet,
    "arcface": arcface,
}


def build_loss(kind: str, options: Mapping[str, Any], learner: str = "student") -> Objective:
    """Builds the loss of a kind.

    Args:
      kind: a key of `LOSSES`.
      options: some of its `Config`.
      learner: name of the role that learns.

    Raises:
      ValueError: if the kind or an option is unknown, or a value is out of range.
    """
    if kind not in LOSSES:
        raise ValueError(f"unknown loss {kind!r}; known: {sorted(LOSSES)}")
    module = LOSSES[kind]
    return module.build(section("--loss-option", dict(options), module.Config), learner)
