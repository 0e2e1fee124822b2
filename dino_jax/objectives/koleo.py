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
    neighbors: int = option(
        1,
        "nearest images that each one moves away from (DINOv3: distributed, top k)",
        at_least=1,
        at_most=MOST_IMAGES,
    )


def build(where: str, config: Config, context: Context) -> "KoleoObjective":
    """Builds the objective.

    Raises:
      ValueError: if a group has fewer images than neighbors.
    """
    if 0 < config.group_size < config.neighbors:
        raise ValueError(
            f"{where}.neighbors ({config.neighbors}) must be at most {where}.group_size "
            f"({config.group_size})"
        )
    weight = Constant(config.weight)
    return KoleoObjective(weight, config.group_size, context.learner, config.neighbors)


def koleo_loss(features: jax.Array, neighbors: int = 1) -> jax.Array:
    """Minus the mean log distance to the nearest neighbors of the same group.

    Duplicates have distance 1e-8, not 0, and no gradient: in the official code theirs is about 1e8
    and cancels in pairs. So the only member of a group, its own neighbor, has none either.

    Args:
      features: [..., n, D] float32, groups of n vectors of any length.
      neighbors: nearest ones of each vector, at most n; where n are asked for, the last of them is
        the vector itself.

    Returns:
      Scalar: mean over all vectors and their neighbors.
    """
    unit = _normalize(features)
    fixed = jax.lax.stop_gradient(unit)
    # In bfloat16, the default on a TPU, near neighbors cannot be told apart.
    similarity = jnp.einsum("...id,...jd->...ij", fixed, fixed, precision="highest")
    others = jnp.where(jnp.eye(features.shape[-2], dtype=bool), -1.0, similarity)
    nearest = _find_nearest(others, neighbors)
    chosen = jnp.take_along_axis(features, nearest[..., None], axis=-2)
    features, unit = (jnp.repeat(x, neighbors, axis=-2) for x in (features, unit))
    # Explicit, because a fused multiply and subtract makes a copy differ from itself.
    duplicate = jnp.all(features == chosen, axis=-1, keepdims=True)
    difference = jnp.where(duplicate, 0.0, unit - _normalize(chosen))
    distance = jnp.sqrt(jnp.sum(jnp.square(difference + EPSILON), axis=-1))
    return -jnp.mean(jnp.log(distance + EPSILON))


def _find_nearest(similarity: jax.Array, neighbors: int) -> jax.Array:
    """[..., n, n] -> [..., n * neighbors] indices; one maximum costs far less than a sort."""
    if neighbors == 1:
        return jnp.argmax(similarity, axis=-1)
    indices = jax.lax.top_k(similarity, neighbors)[1]
    return indices.reshape(*indices.shape[:-2], -1)


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
      neighbors: nearest images of each one.
    """

    weight: Schedule
    group_size: int
    learner: str = "student"
    neighbors: int = 1

    @property
    def needs(self) -> Needs:
        """Whole groups of images in a pass, and enough of them."""
        return Needs(
            roles=(self.learner,),
            groups=("global",),
            group_size=self.group_size,
            images=self.neighbors,
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
        """Sum over the global views; "logged_loss" is DINOv2's, half of the weighted sum."""
        del batch
        features = branches[self.learner].of_group("global").features
        views = len(features)
        cls = jnp.stack([view["cls"] for view in features])
        images, dim = cls.shape[1:]
        groups = cls.reshape(views, -1, self.group_size or images, dim).astype(jnp.float32)
        loss = views * koleo_loss(groups, self.neighbors)
        return Outcome(loss, state, {"loss": loss, "logged_loss": self.weight(step) * loss / 2})
