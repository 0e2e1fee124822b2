"""Turns `config.objectives` into objectives: a new method is one file and one line of a table."""

from typing import Any

from dino_jax.objectives.base import Objective
from dino_jax.objectives.dino import DinoObjective
from dino_jax.schedules import build_teacher_temperature


def build_objectives(
    config: Any, heads: Any, *, total_steps: int, steps_per_epoch: int
) -> dict[str, Objective]:
    """Builds all objectives of a run.

    Args:
      config: `config.objectives`, one section per objective.
      heads: `config.network.heads`, whose out_dim is the number of prototypes.
      total_steps: updates of the run.
      steps_per_epoch: updates per epoch.

    Raises:
      ValueError: if an objective or its head is unknown, or there is none.
    """
    if not config:
        raise ValueError(f"config.objectives is empty; known: {sorted(OBJECTIVES)}")
    objectives = {}
    for name, section in config.items():
        if name not in OBJECTIVES:
            raise ValueError(f"unknown objective {name!r}; known: {sorted(OBJECTIVES)}")
        if section.head not in heads:
            raise ValueError(
                f"config.objectives.{name}.head is {section.head!r}; "
                f"config.network.heads has {sorted(heads)}"
            )
        prototypes = heads[section.head].out_dim
        objectives[name] = OBJECTIVES[name](section, prototypes, total_steps, steps_per_epoch)
    return objectives


def _build_dino(config: Any, prototypes: int, total_steps: int, steps_per_epoch: int):
    if not config.student_temperature > 0 or not 0 <= config.center_momentum < 1:
        raise ValueError(
            f"student_temperature ({config.student_temperature}) must be positive and "
            f"center_momentum ({config.center_momentum}) in [0, 1)"
        )
    return DinoObjective(
        head=config.head,
        prototypes=prototypes,
        student_temperature=config.student_temperature,
        teacher_temperature=build_teacher_temperature(
            config.warmup_teacher_temperature,
            config.teacher_temperature,
            warmup_epochs=config.warmup_teacher_temperature_epochs,
            total_steps=total_steps,
            steps_per_epoch=steps_per_epoch,
        ),
        center_momentum=config.center_momentum,
        weight=config.weight,
    )


OBJECTIVES = {"dino": _build_dino}
