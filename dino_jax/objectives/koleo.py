"""KoLeo (arXiv:1806.03198, Eq. 2): the cls tokens of a group of images spread over the sphere."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from dino_jax.config.range import MOST_IMAGES
from dino_jax.config.section import option
from dino_jax.objectives.base import Context, Needs, Outcome, Outputs
from dino_jax.optim.schedules import Constant, Schedule

EPSILON = 1e-8  # official; below what float16 can hold, so everything here is float32


@dataclass(frozen=True)
class Config:
    """A section of `config.objectives` of kind "koleo"."""

    kind: str = option("koleo", "of the objective")
    weight: float = option(0.1, "of this loss in the sum", at_least=0, at_most=1e6)
    group_size: int = option(
        0,
        "successive images among which neighbors are searched; 0: all of a pass",
        at_least=0,
        at_most=MOST_IMAGES,
    )


def build(where: str, config: Config, context: Context) -> "KoleoObjective":
    """Builds the objective."""
    del where
    return KoleoObjective(Constant(config.weight), config.group_size, context.learner)


def koleo_loss(features: jax.Array) -> jax.Array:
    """Minus the mean log distance to the nearest neighbor of the same group.

    Duplicates have distance 1e-8, not 0, and no gradient: in the official code theirs is about 1e8
    and cancels in pairs. So the only member of a group, its own neighbor, has none either.

    Args:
      features: [..., n, D] float32, groups of n vectors of any length.

    Returns:
      Scalar: mean over all vectors.
    """
    unit = _normalize(features)
    fixed = jax.lax.stop_gradient(unit)
    # In bfloat16, the default on a TPU, near neighbors cannot be told apart.
    similarity = jnp.einsum("...id,...jd->...ij", fixed, fixed, precision="highest")
    others = jnp.where(jnp.eye(features.shape[-2], dtype=bool), -1.0, similarity)
    nearest = jnp.argmax(others, axis=-1)
    neighbours = jnp.take_along_axis(features, nearest[..., None], axis=-2)
    # Explicit, because a fused multiply and subtract makes a copy differ from itself.
    duplicate = jnp.all(features == neighbours, axis=-1, keepdims=True)
    difference = jnp.where(duplicate, 0.0, unit - _normalize(neighbours))
    distance = jnp.sqrt(jnp.sum(jnp.square(difference + EPSILON), axis=-1))
    return -jnp.mean(jnp.log(distance + EPSILON))


def _normalize(x: jax.Array) -> jax.Array:
    squares = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x / jnp.sqrt(jnp.maximum(squares, EPSILON**2))


@dataclass(frozen=True)
class KoleoObjective:
    """KoLeo of the student's cls tokens before the head, each global view by itself, as in DINOv2.

    A group is `group_size` successive images of the batch. In the official code it is the images of
    a device, so that the loss depends on the number of devices.

    Attributes:
      weight: schedule of this objective's weight in the total loss.
      group_size: images among which neighbors are searched; 0 for all of the pass.
      learner: role that learns.
    """

    weight: Schedule
    group_size: int
    learner: str = "student"

    @property
    def needs(self) -> Needs:
        """Whole groups of images in a pass."""
        return Needs(roles=(self.learner,), groups=("global",), group_size=self.group_size)

    def init(self) -> dict[str, jax.Array]:
        return {}

    def __call__(
        self,
        branches: Mapping[str, Outputs],
        batch: dict[str, jax.Array],
        state: Any,
        step: jax.Array,
    ) -> Outcome:
        """Sum over the global views; "logged_loss" is DINOv2's, half of the weighted sum."""
        del batch
        features = branches[self.learner].of_group("global").features
        views = len(features)
        cls = jnp.stack([view["cls"] for view in features])
        images, dim = cls.shape[1:]
        groups = cls.reshape(views, -1, self.group_size or images, dim).astype(jnp.float32)
        loss = views * koleo_loss(groups)
        return Outcome(loss, state, {"loss": loss, "logged_loss": self.weight(step) * loss / 2})
