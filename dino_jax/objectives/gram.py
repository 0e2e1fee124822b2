"""Gram anchoring (DINOv3, arXiv:2508.10104, Eq. 2): patches stay as similar as an anchor has them.

Long trainings blur the patch features of the student. The anchor, an early teacher, the running one
or a frozen model, says how similar the patches of an image are to each other; the features
themselves may go on changing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from dino_jax.config.range import MOST_IMAGES
from dino_jax.config.section import named, option
from dino_jax.objectives.base import Context, Needs, Outcome, Outputs
from dino_jax.objectives.grid_resize import find_grid, resize_grid
from dino_jax.objectives.sphere import to_sphere
from dino_jax.optim.parts import PartsConfig, take_parts
from dino_jax.optim.schedules import Constant, Schedule

FLOOR = 1e-12  # least length that a feature is divided by


@dataclass(frozen=True)
class Config:
    """A section of `config.objectives` of kind "gram"."""

    kind: str = option("gram", "of the objective")
    weight: float = option(2.0, "of this loss in the sum", at_least=0, at_most=1e6)
    parts: dict[str, PartsConfig] = named(
        PartsConfig, {}, "a schedule in three parts instead of a number: weight"
    )
    targets: str = option("gram", "role that is the anchor; the EMA's own pass costs nothing more")
    crops: str = option(
        "gram", "group that it looks at, with the boxes of the global ones, or global"
    )
    level: Literal["image", "batch"] = option(
        "image", "patches are compared within an image, or within a group of images"
    )
    group_size: int = option(
        0,
        "level batch: successive images of a group (the official GPU's); 0: all of a pass",
        at_least=0,
        at_most=MOST_IMAGES,
    )
    tokens: Literal["all", "masked", "unmasked"] = option(
        "all", "level batch: patches that are compared"
    )
    normalize: bool = option(True, "cosines instead of products")
    negatives: Literal["keep", "remove", "remove_targets"] = option(
        "keep", "similarities below 0 become 0 in both networks, or in the anchor alone"
    )


def build(where: str, config: Config, context: Context) -> "GramObjective":
    """Builds the objective.

    Raises:
      ValueError: if single tokens or groups are asked for on the level of images, or
        `config.parts` names something unknown.
    """
    if config.level == "image" and (config.tokens != "all" or config.group_size):
        raise ValueError(
            f"{where}: tokens ({config.tokens!r}) and group_size ({config.group_size}) are for "
            f"--{where}.level=batch; use tokens='all' and group_size=0 for level='image'"
        )
    weights = take_parts(
        f"{where}.parts",
        config.parts,
        {"weight": lambda: Constant(config.weight)},
        total_steps=context.total_steps,
        steps_per_epoch=context.steps_per_epoch,
    )
    return GramObjective(
        weight=weights["weight"],
        targets=config.targets,
        crops=config.crops,
        level=config.level,
        group_size=config.group_size,
        tokens=config.tokens,
        normalize=config.normalize,
        negatives=config.negatives,
        learner=context.learner,
    )


def gram_loss(
    student: jax.Array,
    targets: jax.Array,
    *,
    normalize: bool = True,
    negatives: str = "keep",
    taken: jax.Array | None = None,
) -> jax.Array:
    """Mean squared difference of the similarities of all pairs of patches, in float32.

    Args:
      student: [..., n, D] patches of sets, images or groups of them.
      targets: [..., n, E] patches of the anchor at the same places, without gradient.
      normalize: whether features have length 1 first.
      negatives: "keep", "remove" or "remove_targets", see `Config`.
      taken: [..., n] bool, the patches that are compared; None: all.

    Returns:
      Scalar: mean over the pairs of a set, a patch with itself included, then over the sets. A set
      without a patch counts as 0.
    """
    ours, theirs = (_similarities(x, normalize) for x in (student, jax.lax.stop_gradient(targets)))
    if negatives != "keep":
        theirs = jax.nn.relu(theirs)
    if negatives == "remove":
        ours = jax.nn.relu(ours)
    squares = jnp.square(ours - theirs)
    if taken is None:
        return jnp.mean(squares)
    weights = taken.astype(jnp.float32)
    sums = jnp.einsum("...i,...ij,...j->...", weights, squares, weights, precision="highest")
    return jnp.mean(sums / jnp.maximum(jnp.sum(weights, axis=-1), 1.0) ** 2)


def _similarities(x: jax.Array, normalize: bool) -> jax.Array:
    """[..., n, D] -> [..., n, n]; bfloat16 would hide most of a difference."""
    x = x.astype(jnp.float32)
    x = to_sphere(x, FLOOR) if normalize else x
    return jnp.einsum("...id,...jd->...ij", x, x, precision="highest")


@dataclass(frozen=True)
class GramObjective:
    """The Gram objective; it has no state.

    Attributes:
      weight: schedule of this objective's weight in the total loss.
      targets: role that is the anchor.
      crops: group of the crops that it looks at; their grid of patches is resized to the student's.
      level: "image" or "batch".
      group_size: images of a set on the level of batches; 0: all of the pass.
      tokens: "all", or those that are "masked" or "unmasked" in the student's crops.
      normalize: whether features have length 1 first.
      negatives: "keep", "remove" or "remove_targets".
      learner: role that learns.
    """

    weight: Schedule
    targets: str = "gram"
    crops: str = "gram"
    level: str = "image"
    group_size: int = 0
    tokens: str = "all"
    normalize: bool = True
    negatives: str = "keep"
    learner: str = "student"

    @property
    def needs(self) -> Needs:
        """Crops of the same boxes in both networks; a group is a part of a pass."""
        return Needs(
            roles=(self.learner, self.targets),
            sees=((self.learner, "global"), (self.targets, self.crops)),
            same_boxes=() if self.crops == "global" else (("global", self.crops),),
            aligned_patches=True,
            masks=self.tokens != "all",
            whole_batch=self.level == "batch" and not self.group_size,
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
        """Loss of the global crops as the student gets them, masked patches included."""
        student = branches[self.learner].of_group("global")
        targets = branches[self.targets].of_group(self.crops)
        ours, theirs = take_patches(student), take_patches(targets)
        grid, other = _grid_of(student), _grid_of(targets)
        if grid != other:
            theirs = resize_grid(theirs, other, grid)
        sets = (-1, self._patches_of_a_set(ours))
        loss = gram_loss(
            ours.reshape(*sets, ours.shape[-1]),
            theirs.reshape(*sets, theirs.shape[-1]),
            normalize=self.normalize,
            negatives=self.negatives,
            taken=self._find_taken(batch, sets),
        )
        return Outcome(loss, state, {"loss": loss, "weight": self.weight(step)})

    def _patches_of_a_set(self, patches: jax.Array) -> int:
        images, views, tokens, _ = patches.shape
        return tokens if self.level == "image" else (self.group_size or images) * views * tokens

    def _find_taken(self, batch: dict[str, jax.Array], sets: tuple[int, int]) -> jax.Array | None:
        if self.tokens == "all":
            return None
        masks = batch["masks"].reshape(*sets)
        return masks if self.tokens == "masked" else ~masks


def take_patches(outputs: Outputs) -> jax.Array:
    """[B, V, N, D] float32 patches of all views."""
    views = [view["patches"].astype(jnp.float32) for view in outputs.features]
    return jnp.stack(views, axis=1)


def _grid_of(outputs: Outputs) -> tuple[int, int]:
    """(rows, columns) of the patches of each view."""
    _, height, width, _ = outputs.inputs[0].images.shape
    return find_grid(height, width, outputs.features[0]["patches"].shape[1])
