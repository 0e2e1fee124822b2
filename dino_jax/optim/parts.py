"""Schedules in three parts, those of DINOv3's long runs: a line, a cosine, then a constant.

A stage of a longer run states its step ranges with them: DINOv3's local loss falls from 1 to 0.5
with start = peak = 1, end = 0.5, warmup_epochs = 1000 and cosine_epochs = 1.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from dino_jax.config.range import MOST_EPOCHS
from dino_jax.config.section import option, suggest
from dino_jax.optim.schedules import Schedule, Step, check_positive, epochs_to_steps, evaluate


@dataclass(frozen=True)
class PartsConfig:
    """A schedule in three parts; its values are those of the option that it replaces."""

    start: float = option(0.0, "at step 0; a learning rate here is not scaled", at_most=1e6)
    peak: float = option(1.0, "after the line, at the start of the cosine", at_most=1e6)
    end: float = option(1.0, "at the end of the cosine, and from then on", at_most=1e6)
    warmup_epochs: float = option(
        0.0, "length of the line from start to peak", at_least=0, at_most=MOST_EPOCHS
    )
    cosine_epochs: float | None = option(
        None,
        "length of the cosine from peak to end, both included; None: the rest of the run",
        at_least=0,
        at_most=MOST_EPOCHS,
    )


@dataclass(frozen=True)
class Parts:
    """`start` to `peak` on a line, to `end` on half a cosine, and `end` from then on.

    The line has `warmup_steps` steps and would reach the peak one later. The cosine begins at the
    peak and ends at `end`: np.cos(np.linspace(0, np.pi, cosine_steps)).
    """

    start: float
    peak: float
    end: float
    warmup_steps: int
    cosine_steps: int

    def __call__(self, step: Step) -> Any:
        def formula(xp: Any, s: Any) -> Any:
            line = self.start + (self.peak - self.start) * (s / max(self.warmup_steps, 1))
            last = max(self.cosine_steps - 1, 1)
            remaining = xp.clip(last - (s - self.warmup_steps), 0, last) / last
            cosine = self.end + (self.peak - self.end) * xp.sin(0.5 * np.pi * remaining) ** 2
            later = xp.where(s < self.warmup_steps + self.cosine_steps, cosine, self.end)
            return xp.where(s < self.warmup_steps, line, later)

        return evaluate(formula, step)


def build_parts(
    where: str,
    config: PartsConfig,
    *,
    total_steps: int,
    steps_per_epoch: int,
    scale: float = 1.0,
    at_most: float = math.inf,
) -> Parts:
    """Builds a schedule.

    Args:
      where: dotted name of the section, for messages.
      config: the section.
      total_steps: updates of the run.
      steps_per_epoch: updates per epoch.
      scale: factor of peak and end, not of the start.
      at_most: largest value that it may have.

    Raises:
      ValueError: if a value is negative or too large; not for parts that reach beyond the end of
        the run, which are those of a longer schedule.
    """
    check_positive(total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    for name in ("start", "peak", "end"):
        value = getattr(config, name)
        if not 0 <= value <= at_most:
            raise ValueError(f"{where}.{name} must be in 0 to {at_most:g}, got {value}")
    warmup = epochs_to_steps(config.warmup_epochs, steps_per_epoch)
    cosine = max(total_steps - warmup, 0)
    if config.cosine_epochs is not None:
        cosine = epochs_to_steps(config.cosine_epochs, steps_per_epoch)
    return Parts(config.start, config.peak * scale, config.end * scale, warmup, cosine)


def take_parts(
    where: str,
    parts: Mapping[str, PartsConfig],
    others: Mapping[str, Callable[[], Schedule]],
    *,
    total_steps: int,
    steps_per_epoch: int,
    scales: Mapping[str, float] = MappingProxyType({}),
    at_most: float = math.inf,
) -> dict[str, Any]:
    """The schedules of a section: those in parts, and the others from its other options.

    Args:
      where: dotted name of the table, for messages.
      parts: sections by the name of what they replace.
      others: by name, what builds a schedule that is not in parts.
      total_steps: updates of the run.
      steps_per_epoch: updates per epoch.
      scales: factors of peak and end by name.
      at_most: largest value that they may have.

    Raises:
      ValueError: if a name is unknown, or a value out of range.
    """
    for name in parts:
        if name not in others:
            raise ValueError(f"{where} has no {name!r}; {suggest(name, others)}")
    return {
        name: build_parts(
            f"{where}.{name}",
            parts[name],
            total_steps=total_steps,
            steps_per_epoch=steps_per_epoch,
            scale=scales.get(name, 1.0),
            at_most=at_most,
        )
        if name in parts
        else build()
        for name, build in others.items()
    }
