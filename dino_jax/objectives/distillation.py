"""Shared parts of DINO and iBOT: a head, two temperatures, and targets that do not collapse."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from dino_jax.config.range import MOST_EPOCHS
from dino_jax.config.section import named, option
from dino_jax.objectives.base import Context, check_head
from dino_jax.objectives.centering import Center, Centering, Sinkhorn
from dino_jax.optim.parts import PartsConfig, take_parts
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
    parts: dict[str, PartsConfig] = named(
        PartsConfig,
        {},
        "schedules in three parts instead of numbers: weight, teacher_temperature, of dino also "
        "local_weight",
    )


def build_distillation(
    where: str,
    config: DistillationConfig,
    context: Context,
    weights: Mapping[str, Callable[[], Schedule]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Arguments that both objectives take.

    Args:
      where: dotted name of the section, for messages.
      config: the section.
      context: the other parts of the config.
      weights: builders of further schedules that `config.parts` may replace.

    Raises:
      ValueError: if the head is unknown or takes another head, the warm-up does not fit the run, or
        `config.parts` names something unknown or a temperature that is not positive.
    """
    check_head(f"{where}.head", config.head, context)
    schedules = take_parts(
        f"{where}.parts",
        config.parts,
        {
            "weight": lambda: Constant(config.weight),
            "teacher_temperature": lambda: _build_teacher_temperature(config, context),
            **weights,
        },
        total_steps=context.total_steps,
        steps_per_epoch=context.steps_per_epoch,
    )
    check_temperature(f"{where}.parts.teacher_temperature", config.parts)
    return dict(
        head=config.head,
        prototypes=context.outputs[config.head],
        student_temperature=config.student_temperature,
        centering=_build_centering(config),
        learner=context.learner,
        targets=config.targets,
        **schedules,
    )


def check_temperature(where: str, parts: Mapping[str, PartsConfig]) -> None:
    """Raises a ValueError if a schedule of the teacher's temperature reaches 0."""
    given = parts.get("teacher_temperature")
    if given is not None and min(given.start, given.peak, given.end) <= 0:
        raise ValueError(
            f"{where} must stay above 0, got {given.start} to {given.peak} to {given.end}"
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
