"""Turns `config.objectives` into objectives: a new method is one file and one line of a table."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dino_jax.objectives.base import Objective
from dino_jax.objectives.centering import Center, Centering, Sinkhorn
from dino_jax.objectives.dino import DinoObjective
from dino_jax.objectives.ibot import IbotObjective
from dino_jax.objectives.koleo import KoleoObjective
from dino_jax.optim.schedules import Schedule, build_teacher_temperature


@dataclass(frozen=True)
class Context:
    """What an objective takes from the rest of the config.

    Attributes:
      prototypes: out_dim of every head by name.
      total_steps: updates of the run.
      steps_per_epoch: updates per epoch.
    """

    prototypes: dict[str, int]
    total_steps: int
    steps_per_epoch: int


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
      ValueError: if an objective, its head or its centering is unknown, a value is out of range, or
        there is no objective.
    """
    if not config:
        raise ValueError(f"config.objectives is empty; known: {sorted(OBJECTIVES)}")
    prototypes = {name: head.out_dim for name, head in heads.items()}
    context = Context(prototypes, total_steps, steps_per_epoch)
    objectives = {}
    for name, section in config.items():
        if name not in OBJECTIVES:
            raise ValueError(f"unknown objective {name!r}; known: {sorted(OBJECTIVES)}")
        objectives[name] = OBJECTIVES[name](f"config.objectives.{name}", section, context)
    return objectives


def check_groups(config: Any, images: int) -> None:
    """Checks that the images of a pass are whole groups of every objective.

    Args:
      config: `config.objectives`.
      images: of the global batch in one pass, batch_size / accumulate_steps.

    Raises:
      ValueError: names the objective whose group_size does not divide them.
    """
    for name, section in config.items():
        size = section.group_size if "group_size" in section else 0
        if size and images % size:
            raise ValueError(
                f"config.objectives.{name}.group_size ({size}) must divide the {images} images of "
                "a pass; use 0 for all of them"
            )


def _build_dino(where: str, config: Any, context: Context) -> DinoObjective:
    if config.least_local_pairs < 0:
        raise ValueError(f"{where}.least_local_pairs must be >= 0, got {config.least_local_pairs}")
    return DinoObjective(
        **_build_distillation(where, config, context), least_local_pairs=config.least_local_pairs
    )


def _build_ibot(where: str, config: Any, context: Context) -> IbotObjective:
    return IbotObjective(**_build_distillation(where, config, context))


def _build_koleo(where: str, config: Any, context: Context) -> KoleoObjective:
    del context
    if config.group_size < 0:
        raise ValueError(f"{where}.group_size must be >= 0, got {config.group_size}")
    return KoleoObjective(weight=config.weight, group_size=config.group_size)


def _build_distillation(where: str, config: Any, context: Context) -> dict[str, Any]:
    """What DINO and iBOT share: a head, two temperatures and a centering."""
    if config.head not in context.prototypes:
        raise ValueError(
            f"{where}.head is {config.head!r}; config.network.heads has "
            f"{sorted(context.prototypes)}"
        )
    if not config.student_temperature > 0:
        raise ValueError(
            f"{where}.student_temperature must be positive, got {config.student_temperature}"
        )
    return dict(
        head=config.head,
        prototypes=context.prototypes[config.head],
        student_temperature=config.student_temperature,
        teacher_temperature=_build_teacher_temperature(config, context),
        centering=_build_centering(where, config),
        weight=config.weight,
    )


def _build_teacher_temperature(config: Any, context: Context) -> Schedule:
    return build_teacher_temperature(
        config.warmup_teacher_temperature,
        config.teacher_temperature,
        warmup_epochs=config.warmup_teacher_temperature_epochs,
        every=config.warmup_teacher_temperature_every,
        total_steps=context.total_steps,
        steps_per_epoch=context.steps_per_epoch,
    )


def _build_centering(where: str, config: Any) -> Centering:
    if not 0 <= config.center_momentum < 1 or config.sinkhorn_iterations < 1:
        raise ValueError(
            f"{where}.center_momentum ({config.center_momentum}) must be in [0, 1) and "
            f"{where}.sinkhorn_iterations ({config.sinkhorn_iterations}) at least 1"
        )
    centerings = {
        "center": Center(config.center_momentum),
        "sinkhorn": Sinkhorn(config.sinkhorn_iterations),
    }
    if config.centering not in centerings:
        raise ValueError(f"{where}.centering is {config.centering!r}; known: {sorted(centerings)}")
    return centerings[config.centering]


OBJECTIVES: dict[str, Callable[[str, Any, Context], Objective]] = {
    "dino": _build_dino,
    "ibot": _build_ibot,
    "koleo": _build_koleo,
}
