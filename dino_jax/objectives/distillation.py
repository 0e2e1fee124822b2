"""Shared parts of DINO and iBOT: a head, two temperatures, and targets that do not collapse."""

from dataclasses import dataclass
from typing import Any, Literal

from dino_jax.config.range import MOST_EPOCHS
from dino_jax.config.section import option
from dino_jax.objectives.base import Context, check_head
from dino_jax.objectives.centering import Center, Centering, Sinkhorn
from dino_jax.optim.schedules import Constant, Schedule, build_teacher_temperature


@dataclass(frozen=True)
class DistillationConfig:
    """Options of both objectives."""

    kind: str = option("", "of the objective")
    weight: float = option(1.0, "of this loss in the sum", at_least=0, at_most=1e6)
    head: str = option("dino", "projection head of both networks")
    targets: str = option("teacher", "role that gives the targets")
    student_temperature: float = option(
        0.1, "of the student's softmax", at_least=1e-3, at_most=1000
    )
    teacher_temperature: float = option(
        0.04, "of the targets, after the warm-up", at_least=1e-3, at_most=1000
    )
    warmup_teacher_temperature: float = option(
        0.04, "of the targets, at first", at_least=1e-3, at_most=1000
    )
    warmup_teacher_temperature_epochs: float = option(
        0.0, "length of the warm-up", at_least=0, at_most=MOST_EPOCHS
    )
    warmup_teacher_temperature_every: Literal["epoch", "step"] = option(
        "epoch", "when the temperature moves"
    )
    centering: Literal["center", "sinkhorn"] = option("center", "how targets do not collapse")
    center_momentum: float = option(0.9, "center: share of the old one", at_least=0, below=1)
    sinkhorn_iterations: int = option(3, "sinkhorn: normalizations", at_least=1, at_most=1000)


def build_distillation(where: str, config: DistillationConfig, context: Context) -> dict[str, Any]:
    """Arguments that both objectives take.

    Raises:
      ValueError: if the head is unknown or takes another head, or the warm-up does not fit the run.
    """
    check_head(f"{where}.head", config.head, context)
    return dict(
        head=config.head,
        prototypes=context.outputs[config.head],
        student_temperature=config.student_temperature,
        teacher_temperature=_build_teacher_temperature(config, context),
        centering=_build_centering(config),
        weight=Constant(config.weight),
        learner=context.learner,
        targets=config.targets,
    )


def _build_teacher_temperature(config: DistillationConfig, context: Context) -> Schedule:
    return build_teacher_temperature(
        config.warmup_teacher_temperature,
        config.teacher_temperature,
        warmup_epochs=config.warmup_teacher_temperature_epochs,
        every=config.warmup_teacher_temperature_every,
        total_steps=context.total_steps,
        steps_per_epoch=context.steps_per_epoch,
    )


def _build_centering(config: DistillationConfig) -> Centering:
    if config.centering == "sinkhorn":
        return Sinkhorn(config.sinkhorn_iterations)
    return Center(config.center_momentum)
