"""What an MAE makes of the patches that it does not see (arXiv:2111.06377, Figure 2)."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dino_jax.data.random_masking import RandomMasking
from dino_jax.models.network import Network
from dino_jax.models.position import Grid
from dino_jax.objectives.mae import cut_patches
from dino_jax.visualize.pictures import enlarge

SEED = 0  # of the masks, the same at every evaluation
HIDDEN = 127  # gray of the patches that are not seen


@dataclass(frozen=True)
class Reconstruction:
    """Images with patches hidden, and filled in by a decoder.

    Attributes:
      network: backbone with the decoder.
      head: name of the decoder.
      normalized: whether it predicts normalized patches; they get the mean and the deviation of
        the true ones.
      grid: (rows, columns) of its patches.
      ratio: share of the patches that are hidden.
    """

    network: Network
    head: str
    normalized: bool
    grid: Grid
    ratio: float

    def masks(self, count: int) -> np.ndarray:
        """bool [P, N], the hidden patches of P images."""
        masking = RandomMasking(self.grid, 1, 1, 1.0, (self.ratio, self.ratio))
        return np.concatenate([masking(SEED, 0, image)["masks"][0] for image in range(count)])

    def fill(self, variables: Any, images: jax.Array, masks: jax.Array) -> jax.Array:
        """Images whose hidden patches are predicted and whose seen ones are as they were.

        Args:
          variables: variables of the network.
          images: [P, S, S, C] uint8.
          masks: bool [P, N], equally many in each row.

        Returns:
          [P, S, S, C] uint8.
        """
        seen = masks.shape[1] - int(self.masks(1).sum())
        visible = jnp.argsort(masks, axis=1, stable=True)[:, :seen]
        apply = partial(self.network.apply, variables)
        features: Any = apply(images, visible=visible)
        tokens = features["cls"], features["patches"], visible
        predicted: Any = apply(self.head, tokens, method="project")
        side = images.shape[1] // self.grid[0]
        true = cut_patches(self.network.normalize(images), side)
        if self.normalized:
            mean, variance = true.mean(-1, keepdims=True), true.var(-1, keepdims=True, ddof=1)
            predicted = predicted * jnp.sqrt(variance + 1e-6) + mean
        filled = self._join(jnp.where(masks[..., None], predicted, true), images.shape)
        std, mean = jnp.asarray(self.network.std), jnp.asarray(self.network.mean)
        levels = 255.0 * (filled * std + mean)
        return jnp.round(jnp.clip(levels, 0, 255)).astype(jnp.uint8)

    def _join(self, patches: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Inverse of `cut_patches`."""
        count, height, width, channels = shape
        rows, columns = self.grid
        x = patches.reshape(count, rows, columns, height // rows, width // columns, channels)
        return x.swapaxes(2, 3).reshape(shape)


def build_reconstruction(config: Any, network: Network, image_size: int) -> Reconstruction | None:
    """The reconstruction that a run with an objective of kind "mae" shows; None without one.

    Args:
      config: the whole config.
      network: the network that looks at the images; a decoder that it lacks shows nothing.
      image_size: side of the images in pixels.

    Raises:
      ValueError: if the decoder is for images of another size.
    """
    found = [each for each in config.objectives.values() if each.kind == "mae"]
    if not found or found[0].head not in network.heads:
        return None
    objective = found[0]
    grid = network.heads[objective.head].grid
    side = network.backbone.patch_size
    if (image_size, image_size) != (grid[0] * side, grid[1] * side):
        raise ValueError(
            f"config.image_size ({image_size}) is not that of the decoder's grid, {grid[0]} x "
            f"{grid[1]} patches of {side} pixels; set --config.image_size={grid[0] * side}, or "
            "--config.probes.count=0 for no pictures"
        )
    ratio = config.masking.ratio[1]
    return Reconstruction(network, objective.head, objective.normalize_targets, grid, ratio)


def hide(image: np.ndarray, mask: np.ndarray, grid: Grid) -> np.ndarray:
    """[H, W, 3] uint8 with gray in place of the hidden patches of bool [N]."""
    hidden = enlarge(mask.reshape(grid), *image.shape[:2])[..., None]
    return np.where(hidden, np.uint8(HIDDEN), image)
