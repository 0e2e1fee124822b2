"""SimDINO (arXiv:2502.10385): cosines instead of prototypes, the coding rate against collapse."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from dino_jax.config.range import MOST_IMAGES
from dino_jax.config.section import option
from dino_jax.objectives.base import Context, Needs, Outcome, Outputs, check_head
from dino_jax.objectives.sphere import uniformity
from dino_jax.optim.schedules import Constant, Schedule


@dataclass(frozen=True)
class Config:
    """A section of `config.objectives` of kind "simdino"."""

    kind: str = option("simdino", "of the objective")
    weight: float = option(1.0, "of this loss in the sum", at_least=0, at_most=1e6)
    head: str = option("dino", "head of unit vectors, of both networks; kind bottleneck")
    targets: str = option("teacher", "role that gives the targets")
    cosine_weight: float = option(
        1.0, "of the cosines against the coding rate", at_least=0, at_most=1e6
    )
    epsilon: float = option(
        0.05, "quantization error of the coding rate, squared", above=0, at_most=1e6
    )
    spread: Literal["student", "mean"] = option(
        "mean", "features that spread: the student's, or their mean with the teacher's"
    )
    group_size: int = option(
        0,
        "successive images with a covariance of their own; 0: all of a pass",
        at_least=0,
        at_most=MOST_IMAGES,
    )


def build(where: str, config: Config, context: Context) -> "SimDinoObjective":
    """Builds the objective.

    Raises:
      ValueError: if the head is unknown or takes another head.
    """
    check_head(f"{where}.head", config.head, context)
    return SimDinoObjective(
        head=config.head,
        cosine_weight=config.cosine_weight,
        epsilon=config.epsilon,
        spread=config.spread,
        group_size=config.group_size,
        weight=Constant(config.weight),
        learner=context.learner,
        targets=config.targets,
    )


def mean_cosine(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Mean over images and pairs of different views, as DINO pairs them.

    Args:
      student: [B, V, D] float32 unit vectors, global views first.
      teacher: [B, G, D] float32 unit vectors of the G global views.
    """
    cosines = jnp.mean(jnp.einsum("bgd,bvd->bgv", teacher, student, precision="highest"), axis=0)
    teachers, views = cosines.shape
    different = 1.0 - jnp.eye(teachers, views)
    return jnp.sum(cosines * different) / jnp.sum(different)


def coding_rate(features: jax.Array, epsilon: float) -> jax.Array:
    """Half of the log-determinant of the covariance plus noise (Sec. 3), times (D + n) / (D n).

    The factor is that of the official code, which keeps the gradient's size with n and D.

    Args:
      features: [..., n, D] float32, groups of n vectors; not centered, as in the official code.
      epsilon: squared quantization error, > 0.

    Returns:
      [...] rates of the groups.
    """
    n, dim = features.shape[-2:]
    products = jnp.einsum("...nd,...ne->...de", features, features, precision="highest")
    matrices = jnp.eye(dim) + dim / (n * epsilon) * products
    diagonal = jnp.diagonal(jnp.linalg.cholesky(matrices), axis1=-2, axis2=-1)
    return jnp.sum(jnp.log(diagonal), axis=-1) * (dim + n) / (dim * n)


@dataclass(frozen=True)
class SimDinoObjective:
    """The SimDINO objective; it has no state.

    A group is `group_size` successive images of the batch. In the official code it is the images of
    a device, so that the loss depends on the number of devices.

    Attributes:
      head: name of the head of unit vectors.
      cosine_weight: weight of the mean cosine against the coding rate.
      epsilon: squared quantization error of the coding rate.
      spread: whose coding rate grows, "student" or "mean".
      group_size: images of a covariance; 0 for all of the pass.
      weight: schedule of this objective's weight in the total loss.
      learner: role that learns.
      targets: role that gives the targets; its views are the first of the learner's.
    """

    head: str
    cosine_weight: float = 1.0
    epsilon: float = 0.05
    spread: str = "mean"
    group_size: int = 0
    weight: Schedule = Constant(1.0)
    learner: str = "student"
    targets: str = "teacher"

    @property
    def needs(self) -> Needs:
        """Whole groups of images in a pass; the whole batch if that is the group."""
        return Needs(
            roles=(self.learner, self.targets),
            heads=(self.head,),
            views=2,
            aligned_views=True,
            whole_batch=not self.group_size,
            views_apart=False,
            group_size=self.group_size,
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
        """Minus the weighted cosine, minus the mean coding rate of the teacher's views.

        "uniformity" is that of the student's first views, the mean of the groups.
        """
        del batch, step
        student, teacher = (
            branches[name].project(self.head, branches[name].cls_tokens())
            for name in (self.learner, self.targets)
        )
        teacher = jax.lax.stop_gradient(teacher)
        cosine = mean_cosine(student, teacher)
        images, views, dim = teacher.shape
        spread = student[:, :views]
        if self.spread == "mean":
            spread = (spread + teacher) / 2
        shape = (-1, self.group_size or images, dim)
        groups = jnp.moveaxis(spread, 1, 0).reshape(views, *shape)
        rate = jnp.mean(coding_rate(groups, self.epsilon))
        loss = -self.cosine_weight * cosine - rate
        metrics = {
            "loss": loss,
            "cosine": cosine,
            "coding_rate": rate,
            "uniformity": jnp.mean(jax.vmap(uniformity)(student[:, 0].reshape(shape))),
        }
        return Outcome(loss, state, metrics)
