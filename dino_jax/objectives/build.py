"""Turns `config.objectives` into objectives: a new method is one file and one line of a table."""

from collections.abc import Mapping
from typing import Any

from dino_jax.config.section import section
from dino_jax.objectives import (
    byol,
    dino,
    gram,
    ibot,
    koleo,
    mae,
    mocov3,
    preserve,
    simclr,
    simdino,
    simdino_patches,
)
from dino_jax.objectives.base import Context, Objective

# Modules with a dataclass `Config` and `build(where, config, context) -> Objective`.
OBJECTIVES: dict[str, Any] = {
    "byol": byol,
    "dino": dino,
    "gram": gram,
    "ibot": ibot,
    "koleo": koleo,
    "mae": mae,
    "mocov3": mocov3,
    "preserve": preserve,
    "simclr": simclr,
    "simdino": simdino,
    "simdino_patches": simdino_patches,
}


def build_objectives(
    config: Any,
    heads: Mapping[str, Any],
    *,
    learner: str,
    total_steps: int,
    steps_per_epoch: int,
) -> dict[str, Objective]:
    """Builds all objectives of a run.

    Args:
      config: `config.objectives`, sections by name; one without a kind is of the kind of its name.
      heads: modules or sections by name; those with prototypes have an `out_dim`.
      learner: name of the role that learns.
      total_steps: updates of the run.
      steps_per_epoch: updates per epoch.

    Raises:
      ValueError: if an objective or its head is unknown, a value is out of range, or there is no
        objective.
    """
    if not config:
        raise ValueError(f"config.objectives is empty; known: {sorted(OBJECTIVES)}")
    outputs = {name: head.out_dim for name, head in heads.items() if hasattr(head, "out_dim")}
    inputs = {name: head.of for name, head in heads.items() if name in outputs}
    context = Context(learner, outputs, inputs, total_steps, steps_per_epoch)
    objectives = {}
    for name, given in config.items():
        where, kind = f"config.objectives.{name}", getattr(given, "kind", name)
        if kind not in OBJECTIVES:
            raise ValueError(f"unknown objective {kind!r}; known: {sorted(OBJECTIVES)}")
        module = OBJECTIVES[kind]
        objectives[name] = module.build(where, section(where, given, module.Config), context)
    return objectives
