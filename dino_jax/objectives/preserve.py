"""Preservation: features stay close to those of a frozen network, the one that a run continues.

1 minus the cosine of the cls tokens and of the patches of the same place, of the global crops: a
hint in feature space (FitNets, arXiv:1412.6550, Eq. 3) with the cosine in place of the distance.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from dino_jax.config.section import option
from dino_jax.objectives.base import Context, Needs, Outcome, Outputs
from dino_jax.objectives.gram import take_patches
from dino_jax.objectives.sphere import to_sphere
from dino_jax.optim.schedules import Constant, Schedule

FLOOR = 1e-12  # least length that a feature is divided by


@dataclass(frozen=True)
class Config:
    """A section of `config.objectives` of kind "preserve"."""

    kind: str = option("preserve", "of the objective")
    weight: float = option(1.0, "of this loss in the sum", at_least=0, at_most=1e6)
    patches_weight: float = option(
        1.0, "of the patches beside the cls token", at_least=0, at_most=1e6
    )
    targets: str = option("start", "frozen role whose features are kept")


def build(where: str, config: Config, context: Context) -> "PreserveObjective":
    """Builds the objective; `where` names its section in messages."""
    del where
    return PreserveObjective(
        Constant(config.weight), config.patches_weight, config.targets, context.learner
    )


def cosine_loss(
    student: jax.Array, targets: jax.Array, taken: jax.Array | None = None
) -> jax.Array:
    """1 minus the mean cosine of rows, in float32.

    Args:
      student: [..., D] features.
      targets: [..., D] of the same places, without gradient.
      taken: [...] bool, the rows that count; None: all. Without any, the loss is 0.

    Returns:
      Scalar between 0 (equal directions) and 2.
    """
    ours, theirs = (to_sphere(x.astype(jnp.float32), FLOOR) for x in (student, targets))
    apart = 1.0 - jnp.sum(ours * jax.lax.stop_gradient(theirs), axis=-1)
    if taken is None:
        return jnp.mean(apart)
    return jnp.sum(apart * taken) / jnp.maximum(jnp.sum(taken), 1)


@dataclass(frozen=True)
class PreserveObjective:
    """Preservation; it has no state.

    Attributes:
      weight: schedule of this objective's weight in the total loss.
      patches_weight: of the patches beside the cls token.
      targets: frozen role.
      learner: role that learns.
    """

    weight: Schedule
    patches_weight: float = 1.0
    targets: str = "start"
    learner: str = "student"

    @property
    def needs(self) -> Needs:
        """The same global crops in both networks, and features of equal width."""
        return Needs(
            roles=(self.learner, self.targets),
            groups=("global",),
            aligned_patches=True,
            same_width=True,
        )

    def init(self) -> dict[str, jax.Array]:
        return {}

    def __call__(
        self,
        branches: Mapping[str, Outputs],
        batch: dict[str, jax.Array],
        state: Any,
        step: jax.Array,
    ) -> Outcome:
        """Patches that are masked in the batch do not count."""
        del step
        student, targets = (
            branches[name].of_group("global") for name in (self.learner, self.targets)
        )
        cls = cosine_loss(student.cls_tokens(), targets.cls_tokens())
        ours, theirs = take_patches(student), take_patches(targets)
        masks = batch.get("masks")
        taken = None if masks is None else ~masks.reshape(ours.shape[:-1])
        patches = cosine_loss(ours, theirs, taken)
        loss = cls + self.patches_weight * patches
        return Outcome(loss, state, {"loss": loss, "cls_cosine": 1 - cls, "cosine": 1 - patches})
