"""The patch loss of SimDINOv2 (arXiv:2502.10385): cosines with the teacher where the mask was."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from dino_jax.config.section import option
from dino_jax.objectives.base import Context, Needs, Outcome, Outputs, check_head
from dino_jax.objectives.ibot import gather_patches
from dino_jax.optim.schedules import Constant, Schedule


@dataclass(frozen=True)
class Config:
    """A section of `config.objectives` of kind "simdino_patches"."""

    kind: str = option("simdino_patches", "of the objective")
    weight: float = option(1.0, "of this loss in the sum", at_least=0, at_most=1e6)
    head: str = option("dino", "head of unit vectors, of both networks; kind bottleneck")
    targets: str = option("teacher", "role that gives the targets")


def build(where: str, config: Config, context: Context) -> "SimDinoPatches":
    """Builds the objective.

    Raises:
      ValueError: if the head is unknown or takes another head.
    """
    check_head(f"{where}.head", config.head, context)
    weight = Constant(config.weight)
    return SimDinoPatches(config.head, weight, context.learner, config.targets)


@dataclass(frozen=True)
class SimDinoPatches:
    """Masked image modeling without prototypes; it has no state.

    The batch brings masks as for iBOT; a crop without a mask counts as one with a loss of 0, as in
    the official code.

    Attributes:
      head: name of the head of unit vectors; that of the cls tokens in SimDINOv2.
      weight: schedule of this objective's weight in the total loss.
      learner: role that learns.
      targets: role that gives the targets.
    """

    head: str
    weight: Schedule = Constant(1.0)
    learner: str = "student"
    targets: str = "teacher"

    @property
    def needs(self) -> Needs:
        """Masks, and the same patches in both networks."""
        return Needs(
            roles=(self.learner, self.targets),
            heads=(self.head,),
            groups=("global",),
            aligned_patches=True,
            masks=True,
            views_apart=False,
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
        """Minus the cosine of masked patches: the mean in a crop, then over all crops."""
        del step
        seen = [branches[name].of_group("global") for name in (self.learner, self.targets)]
        student, teacher = (
            outputs.project(self.head, gather_patches(outputs, batch["mask_indices"]))
            for outputs in seen
        )
        cosines = jnp.sum(student * jax.lax.stop_gradient(teacher), axis=-1)
        features = seen[1].features
        crops = len(features) * len(features[0]["patches"])
        loss = -jnp.sum(batch["mask_weight"] * cosines) / crops
        return Outcome(loss, state, {"loss": loss})
