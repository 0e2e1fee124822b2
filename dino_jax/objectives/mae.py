"""MAE (arXiv:2111.06377): the pixels of the patches that the network did not see."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from dino_jax.config.section import option
from dino_jax.objectives.base import Context, Needs, Outcome, Outputs
from dino_jax.optim.schedules import Constant, Schedule


@dataclass(frozen=True)
class Config:
    """A section of `config.objectives` of kind "mae"."""

    kind: str = option("mae", "of the objective")
    weight: float = option(1.0, "of this loss in the sum", at_least=0, at_most=1e6)
    head: str = option("decoder", "head that predicts the patches")
    normalize_targets: bool = option(
        True, "pixels of a patch minus their mean, over their deviation (the better features)"
    )


def build(where: str, config: Config, context: Context) -> "MaeObjective":
    """Builds the objective.

    Raises:
      ValueError: if the head does not exist, or does not take tokens.
    """
    decoders = sorted(name for name, of in context.inputs.items() if of == "tokens")
    if config.head not in decoders:
        raise ValueError(
            f"{where}.head is {config.head!r}; heads of config.network.heads that take tokens: "
            f"{decoders}; add one of kind 'decoder'"
        )
    return MaeObjective(
        config.head, config.normalize_targets, Constant(config.weight), context.learner
    )


def cut_patches(images: jax.Array, side: int) -> jax.Array:
    """[B, H, W, C] -> [B, N, side * side * C], each patch in the order (row, column, channel)."""
    batch, height, width, channels = images.shape
    rows, columns = height // side, width // side
    whole = images[:, : rows * side, : columns * side]
    patches = whole.reshape(batch, rows, side, columns, side, channels).swapaxes(2, 3)
    return patches.reshape(batch, rows * columns, -1)


def normalize_patches(patches: jax.Array) -> jax.Array:
    """[..., K] patches with zero mean and unit variance, the unbiased one (Sec. 4.1)."""
    mean = jnp.mean(patches, axis=-1, keepdims=True)
    variance = jnp.var(patches, axis=-1, ddof=1, keepdims=True)
    return (patches - mean) * jax.lax.rsqrt(variance + 1e-6)


def masked_error(predictions: jax.Array, targets: jax.Array, masks: jax.Array) -> jax.Array:
    """Mean squared error of the masked patches of the whole batch.

    Args:
      predictions: [B, N, K] float32.
      targets: [B, N, K] float32.
      masks: bool [B, N], the patches that count.

    Returns:
      Scalar.
    """
    errors = jnp.mean(jnp.square(predictions - targets), axis=-1)
    return jnp.sum(errors * masks) / jnp.sum(masks)


@dataclass(frozen=True)
class MaeObjective:
    """Masked autoencoding of the global crops; it has no state.

    The batch brings "masks" [B, G, N]. Masked patches are left out of the learner's pass, or hidden
    by its mask token, as `config.roles` says; MAE leaves them out.

    Attributes:
      head: name of the decoder.
      normalize_targets: whether the targets are normalized patches.
      weight: schedule of this objective's weight in the total loss.
      learner: role that learns.
    """

    head: str
    normalize_targets: bool = True
    weight: Schedule = Constant(1.0)
    learner: str = "student"

    @property
    def needs(self) -> Needs:
        return Needs(roles=(self.learner,), heads=(self.head,), groups=("global",), masks=True)

    def init(self) -> dict[str, jax.Array]:
        return {}

    def __call__(
        self,
        branches: Mapping[str, Outputs],
        batch: dict[str, jax.Array],
        state: Any,
        step: jax.Array,
    ) -> Outcome:
        """Loss of the masked patches; a constant prediction of normalized ones has a loss of 1."""
        seen = branches[self.learner].of_group("global")
        losses = []
        for view, (features, given) in enumerate(zip(seen.features, seen.inputs, strict=True)):
            tokens = features["cls"], features["patches"], given.visible
            predictions = seen.project(self.head, tokens)
            targets = self.targets(given.images, predictions.shape)
            losses.append(masked_error(predictions, targets, batch["masks"][:, view]))
        loss = jnp.mean(jnp.stack(losses))
        return Outcome(loss, state, {"loss": loss})

    def targets(self, images: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """[B, H, W, C] network inputs -> [B, N, K] target patches.

        Raises:
          ValueError: if the decoder's patches are not those of the images.
        """
        height, width, channels = images.shape[1:]
        side = math.isqrt(shape[-1] // channels)
        if (height // side) * (width // side) != shape[1] or side * side * channels != shape[-1]:
            raise ValueError(
                f"config.network.heads.{self.head} predicts {shape[1]} patches of {shape[-1]} "
                f"values; crops of {height} x {width} pixels with {channels} channels have other "
                f"ones: its out_dim must be patch_size * patch_size * {channels}"
            )
        patches = cut_patches(images.astype(jnp.float32), side)
        return normalize_patches(patches) if self.normalize_targets else patches
