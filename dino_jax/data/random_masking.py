"""Random masks of a fixed share of the patches (MAE, arXiv:2111.06377, Sec. 3)."""

import math
from dataclasses import dataclass

import numpy as np

from dino_jax.data.mask_indices import index_masks


@dataclass(frozen=True)
class RandomMasking:
    """Masks that are a pure function of (seed, step, image); picklable.

    Every crop of every image keeps the same number of patches, drawn without structure.

    Attributes:
      grid: (rows, columns) of patches of a crop.
      crops: masked crops per image.
      group_size: images whose masked patches share one list of indices; changes no draw.
      probability: share of the crops that are masked: 1.
      ratio: (any, share of the patches masked in every crop).
    """

    grid: tuple[int, int]
    crops: int
    group_size: int
    probability: float
    ratio: tuple[float, float]

    def __post_init__(self):
        if self.probability != 1:
            raise ValueError(
                f"config.masking.probability ({self.probability}) must be 1.0 for kind 'random', "
                "which masks the same number of patches in every crop"
            )
        if not 0 < self.visible < math.prod(self.grid):
            raise ValueError(
                f"config.masking.ratio ({self.ratio}) keeps {self.visible} of the "
                f"{math.prod(self.grid)} patches of a grid of {self.grid}; its second number must "
                "leave and mask at least one"
            )

    @property
    def visible(self) -> int:
        """k: patches that a crop keeps, truncated in floating point as in the official code."""
        return int(math.prod(self.grid) * (1 - self.ratio[1]))

    @property
    def bound(self) -> int:
        """U: masked patches of a group."""
        return self.group_size * self.crops * (math.prod(self.grid) - self.visible)

    def layout(self, images: int) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shapes and dtypes of the arrays for whole groups of `images` images in total."""
        groups = images // self.group_size
        return {
            "masks": ((images, self.crops, math.prod(self.grid)), np.dtype(bool)),
            "visible": ((images, self.crops, self.visible), np.dtype(np.int32)),
            "mask_indices": ((groups, self.bound), np.dtype(np.int32)),
            "mask_weight": ((groups, self.bound), np.dtype(np.float32)),
        }

    def __call__(self, seed: int, step: int, group: int) -> dict[str, np.ndarray]:
        """Draws the masks of images group * group_size, … of the global batch of a step.

        Args:
          seed: seed of the run, >= 0.
          step: step of the run, >= 0.
          group: index of the group within the global batch, >= 0.

        Returns:
          "masks": [group_size, G, N] bool; "visible": [group_size, G, k] int32, the patches kept,
          ascending; "mask_indices", "mask_weight": [1, U] of `index_masks`.
        """
        first = group * self.group_size
        images = range(first, first + self.group_size)
        visible = np.stack([self._draw(seed, step, image) for image in images])
        masks = np.ones((self.group_size, self.crops, math.prod(self.grid)), bool)
        np.put_along_axis(masks, visible, False, axis=-1)
        indexed = index_masks(masks, self.bound)
        grouped = {name: array[None] for name, array in indexed.items()}
        return {"masks": masks, "visible": visible.astype(np.int32), **grouped}

    def _draw(self, seed: int, step: int, image: int) -> np.ndarray:
        """[G, k] ascending: the patches with the smallest of uniform numbers."""
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(step, image)))
        noise = rng.random((self.crops, math.prod(self.grid)))
        return np.sort(np.argsort(noise, axis=-1)[:, : self.visible], axis=-1)
