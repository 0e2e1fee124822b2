"""Schedules: scalars as pure functions of the step, the only clock of a run.

A schedule called with a Python or NumPy integer (or integer array) computes in NumPy float64, for
logs, plots and tests; called with a `jax.Array` (traced or not) it computes a float32 `jax.Array`,
inside the train step. Steps past the end of a run give the final value.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Step = int | np.integer | np.ndarray | jax.Array
# Returns float64 (NumPy) for a host step and a float32 jax.Array for a jax.Array.
Schedule = Callable[[Step], Any]

# Which step has the peak of the learning rate: the last one of the warm-up (DINO), or the first one
# after it (SimCLR, BYOL, MoCo v3, MAE).
WARMUP_PEAKS = ("last", "after")
LR_SCALINGS = {"linear": 1.0, "sqrt": 0.5}  # exponents of the batch size


def evaluate(formula: Callable[[Any, Any], Any], step: Step) -> Any:
    """Runs `formula(xp, step)` in float32 (jax.numpy) for a jax.Array, else in float64 (NumPy)."""
    on_device = isinstance(step, jax.Array)
    steps = step if on_device else np.asarray(step)
    if not jnp.issubdtype(steps.dtype, jnp.integer):
        raise TypeError(f"a schedule takes an integer step, got {steps.dtype}")
    if on_device:
        return jnp.asarray(formula(jnp, steps.astype(jnp.int32)), jnp.float32)
    return np.asarray(formula(np, steps.astype(np.int64)), np.float64)[()]  # scalar for a scalar


def _cosine(xp: Any, step: Any, base: float, final: float, steps: int) -> Any:
    """final + (base - final) / 2 * (1 + cos(pi * step / steps)), and `final` from `steps` on.

    Written as sin(pi / 2 * remaining)^2 = (1 + cos(pi * progress)) / 2, which does not cancel near
    the end: of a learning rate that falls by a factor of 2,000 float32 then gives 4e-7 relative,
    the usual form 3e-5.
    """
    remaining = xp.maximum(steps - step, 0) / max(steps, 1)
    return final + (base - final) * xp.sin(0.5 * np.pi * remaining) ** 2


@dataclass(frozen=True)
class Constant:
    """The same `value` at every step."""

    value: float

    def __call__(self, step: Step) -> Any:
        return evaluate(lambda xp, s: xp.full(s.shape, self.value), step)


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from `base` at step 0 to `final` at `total_steps`, one past the last step.

    DINO's weight decay and EMA momentum (arXiv:2104.14294; official `cosine_scheduler`).
    """

    base: float
    final: float
    total_steps: int

    def __call__(self, step: Step) -> Any:
        return evaluate(lambda xp, s: _cosine(xp, s, self.base, self.final, self.total_steps), step)


@dataclass(frozen=True)
class WarmupCosine:
    """Linear warm-up from exactly 0, then half a cosine from `peak` to `final` over the rest.

    Attributes:
      peak: value at the end of the warm-up.
      final: value at `total_steps`.
      total_steps: one past the last step.
      warmup_steps: steps before the cosine.
      rise_steps: steps in which the line goes from 0 to the peak. None: `warmup_steps` - 1, that is
        `np.linspace(0, peak, warmup_steps)` as in the official code of DINO, where the last step of
        the warm-up and the first one of the cosine both give the peak. SimCLR, BYOL, MoCo v3 and
        MAE reach it at the first step of the cosine: `warmup_steps`.
    """

    peak: float
    final: float
    total_steps: int
    warmup_steps: int
    rise_steps: int | None = None

    def __call__(self, step: Step) -> Any:
        def formula(xp: Any, s: Any) -> Any:
            rise = self.warmup_steps - 1 if self.rise_steps is None else self.rise_steps
            warmup = self.peak * (s / max(rise, 1))
            cosine_steps = self.total_steps - self.warmup_steps
            cosine = _cosine(xp, s - self.warmup_steps, self.peak, self.final, cosine_steps)
            return xp.where(s < self.warmup_steps, warmup, cosine)

        return evaluate(formula, step)


@dataclass(frozen=True)
class TeacherTemperature:
    """Temperature that moves from `warmup` to `final` in equal moves, then stays constant.

    The table is `np.linspace(warmup, final, warmup_moves)` with its endpoint, as in the official
    codes: move `warmup_moves - 1` gives `final`. DINO moves once per epoch, DINOv2 at every step.
    """

    warmup: float
    final: float
    warmup_moves: int
    steps_per_move: int

    def __call__(self, step: Step) -> Any:
        def formula(xp: Any, s: Any) -> Any:
            move = s // self.steps_per_move
            fraction = move / max(self.warmup_moves - 1, 1)
            warmup = self.warmup + (self.final - self.warmup) * fraction
            return xp.where(move < self.warmup_moves, warmup, self.final)

        return evaluate(formula, step)


def scale_learning_rate(
    base_lr: float, batch_size: int, reference_batch: int = 256, rule: str = "linear"
) -> float:
    """Scales a base learning rate with the global batch.

    Args:
      base_lr: Learning rate at `reference_batch`, >= 0.
      batch_size: Images per update over all devices and accumulation steps.
      reference_batch: Batch for which `base_lr` is specified.
      rule: "linear" (arXiv:1706.02677; DINO) or "sqrt" (DINOv2, with a reference of 1024).

    Raises:
      ValueError: if `base_lr` is negative, a batch is not positive or the rule is unknown.
    """
    _check_not_negative(base_lr=base_lr)
    check_positive(batch_size=batch_size, reference_batch=reference_batch)
    if rule not in LR_SCALINGS:
        raise ValueError(f"unknown lr_scaling {rule!r}; known: {sorted(LR_SCALINGS)}")
    return base_lr * (batch_size / reference_batch) ** LR_SCALINGS[rule]


def epochs_to_steps(epochs: float, steps_per_epoch: int) -> int:
    """Converts a possibly fractional number of epochs to the nearest number of steps.

    Raises:
      ValueError: if `epochs` is negative or `steps_per_epoch` is not positive.
    """
    _check_not_negative(epochs=epochs)
    check_positive(steps_per_epoch=steps_per_epoch)
    return round(epochs * steps_per_epoch)


def build_cosine(base: float, final: float, *, total_steps: int) -> Cosine:
    """Builds the schedule of a weight decay or of an EMA momentum.

    Raises:
      ValueError: if a value is negative or `total_steps` is not positive.
    """
    _check_not_negative(base=base, final=final)
    check_positive(total_steps=total_steps)
    return Cosine(base, final, total_steps)


def build_warmup_cosine(
    peak: float,
    final: float,
    *,
    warmup_epochs: float,
    total_steps: int,
    steps_per_epoch: int,
    warmup_peak: str = "last",
) -> WarmupCosine:
    """Builds the schedule of a learning rate.

    Args:
      peak: Learning rate at the end of the warm-up, already scaled with the batch.
      final: Learning rate at the end of the run; the official code does not scale it.
      warmup_epochs: May be fractional; rounded to steps.
      total_steps: Updates of the whole run, warm-up included.
      steps_per_epoch: Updates per epoch.
      warmup_peak: One of `WARMUP_PEAKS`.

    Raises:
      ValueError: if a value is negative, or the warm-up is longer than the run.
    """
    _check_not_negative(peak=peak, final=final, warmup_epochs=warmup_epochs)
    check_positive(total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    warmup_steps = epochs_to_steps(warmup_epochs, steps_per_epoch)
    if warmup_steps > total_steps:
        epochs = total_steps / steps_per_epoch
        raise ValueError(
            f"warmup_epochs ({warmup_epochs:g}, {warmup_steps} steps) is longer than the run "
            f"({epochs:g} epochs, {total_steps} steps); lower warmup_epochs to at most {epochs:g} "
            f"or train for at least {warmup_epochs:g} epochs"
        )
    rise_steps = {"last": None, "after": warmup_steps}[warmup_peak]
    return WarmupCosine(peak, final, total_steps, warmup_steps, rise_steps)


def build_teacher_temperature(
    warmup: float,
    final: float,
    *,
    warmup_epochs: float,
    total_steps: int,
    steps_per_epoch: int,
    every: str = "epoch",
) -> TeacherTemperature:
    """Builds the schedule of the teacher's softmax temperature.

    Args:
      warmup: Temperature of the first step, > 0.
      final: Temperature after the warm-up, > 0.
      warmup_epochs: 0 gives `final` throughout; a whole number if it moves once per epoch.
      total_steps: Updates of the whole run.
      steps_per_epoch: Updates per epoch.
      every: "epoch" (DINO) or "step" (DINOv2), when the temperature moves.

    Raises:
      ValueError: if a temperature is not positive, `every` is unknown, or `warmup_epochs` is
        negative, not a whole number of moves or longer than the run.
    """
    check_positive(warmup_teacher_temperature=warmup, teacher_temperature=final)
    check_positive(total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    _check_not_negative(warmup_epochs=warmup_epochs)
    if every not in ("epoch", "step"):
        raise ValueError(f"the teacher temperature moves every {every!r}; known: ['epoch', 'step']")
    if every == "epoch" and warmup_epochs != int(warmup_epochs):
        raise ValueError(
            f"warmup_teacher_temperature_epochs ({warmup_epochs:g}) must be a whole number, as the "
            f"temperature moves once per epoch; use {int(warmup_epochs)} or "
            f"{int(warmup_epochs) + 1}"
        )
    epochs = total_steps / steps_per_epoch
    if warmup_epochs > epochs:
        raise ValueError(
            f"warmup_teacher_temperature_epochs ({warmup_epochs:g}) is longer than the run "
            f"({epochs:g} epochs, {total_steps} steps); lower it to at most {int(epochs)} or train "
            f"for at least {warmup_epochs:g} epochs"
        )
    if every == "step":
        return TeacherTemperature(warmup, final, epochs_to_steps(warmup_epochs, steps_per_epoch), 1)
    return TeacherTemperature(warmup, final, int(warmup_epochs), steps_per_epoch)


def _check_not_negative(**values: float) -> None:
    for name, value in values.items():
        if not value >= 0:  # also catches NaN
            raise ValueError(f"{name} must not be negative, got {value}")


def check_positive(**values: float) -> None:
    """Raises ValueError, with the name, for a value that is not above 0."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
