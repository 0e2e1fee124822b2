"""Block-wise masks for masked image modeling (BEiT, arXiv:2106.08254, Algorithm 1), as in DINOv2.

Some of the global crops of a group of images are masked, each with a different share of its
patches. The draws come from Python's `random.Random` in the order of the official code, so that
they are the official ones for the same seed. There, a group is the images of a device; here its
size is explicit, so that the masks of a run do not depend on hosts, devices or workers.
"""

import itertools
import math
import random
from dataclasses import dataclass

import numpy as np

from dino_jax.data.mask_indices import index_masks

# Official; a block that must not exceed a smaller number of patches may be smaller.
MIN_BLOCK_PATCHES = 4
MIN_BLOCK_ASPECT = 0.3  # height / width, up to its inverse
BLOCK_TRIES = 10  # places tried for a block before the mask is left as it is


@dataclass(frozen=True)
class BlockMasking:
    """Masks that are a pure function of (seed, step, group); picklable.

    Attributes:
      grid: (rows, columns) of patches of a crop.
      crops: masked crops per image.
      group_size: images that share one draw of masked crops and ratios.
      probability: share of a group's crops that are masked, in [0, 1].
      ratio: (lowest, highest) share of patches masked in a masked crop.
    """

    grid: tuple[int, int]
    crops: int
    group_size: int
    probability: float
    ratio: tuple[float, float]

    def __post_init__(self):
        if self.bound == 0:
            raise ValueError(
                f"config.masking.probability ({self.probability}) of {self.group_size} images x "
                f"{self.crops} crops at masking.ratio ({self.ratio}) masks no patch of a grid of "
                f"{self.grid}; raise one of them or masking.group_size"
            )

    @property
    def bound(self) -> int:
        """U: no group has more masked patches than this."""
        ratios = _ratios(self.group_size * self.crops, self.probability, self.ratio)
        return sum(int(math.prod(self.grid) * high) for high in ratios[1:])

    def layout(self, images: int) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shapes and dtypes of the arrays for whole groups of `images` images in total."""
        groups = images // self.group_size
        return {
            "masks": ((images, self.crops, math.prod(self.grid)), np.dtype(bool)),
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
          "masks": [group_size, G, N] bool; "mask_indices", "mask_weight": [1, U] of `index_masks`.
        """
        state = np.random.SeedSequence(seed, spawn_key=(step, group)).generate_state(4)
        masks = sample_masks(
            random.Random(int.from_bytes(state.tobytes(), "little")),
            images=self.group_size,
            crops=self.crops,
            grid=self.grid,
            probability=self.probability,
            ratio=self.ratio,
        )
        indexed = index_masks(masks, self.bound)
        return {"masks": masks, **{name: array[None] for name, array in indexed.items()}}


def sample_masks(
    rng: random.Random,
    *,
    images: int,
    crops: int,
    grid: tuple[int, int],
    probability: float,
    ratio: tuple[float, float],
) -> np.ndarray:
    """Masks `int(images * crops * probability)` crops of a group, the others not at all.

    The masked crops have ratios from equal intervals of `ratio`, one each; which crop gets which
    mask is shuffled over the whole group, so the views of an image are not related.

    Args:
      rng: source of randomness; random.Random(s) gives the draws of the official code after
        random.seed(s).
      images: B, images of the group.
      crops: G, global crops per image.
      grid: (rows, columns) of patches, N = rows * columns.
      probability: share of crops that are masked.
      ratio: (lowest, highest) share of patches masked in a masked crop.

    Returns:
      [B, G, N] bool, True where masked; rows of patches one after another.
    """
    tokens = math.prod(grid)
    ratios = _ratios(images * crops, probability, ratio)
    masks = []
    for low, high in itertools.pairwise(ratios):
        share = min(low + (high - low) * np.float32(rng.random()), high)
        masks.append(sample_block_mask(rng, grid, int(tokens * share)).reshape(tokens))
    masks += [np.zeros(tokens, bool)] * (images * crops - len(masks))
    rng.shuffle(masks)
    # The official list is crop-major: all images' first crops, then all their second crops.
    return np.stack(masks).reshape(crops, images, tokens).swapaxes(0, 1)


def sample_block_mask(rng: random.Random, grid: tuple[int, int], count: int) -> np.ndarray:
    """Places rectangles until `count` patches are masked or no further one fits.

    Args:
      rng: source of randomness.
      grid: (rows, columns) of patches.
      count: patches to mask; a few less come out where the last ones cannot be placed.

    Returns:
      [rows, columns] bool.
    """
    mask = np.zeros(grid, bool)
    left = count
    while left > 0:
        added = _add_block(rng, mask, min(left, grid[0] // 2 * grid[1]))
        if not added:
            break
        left -= added
    return mask


def _add_block(rng: random.Random, mask: np.ndarray, most: int) -> int:
    """Masks one rectangle with 1 to `most` unmasked patches; returns their number, 0 if none."""
    rows, columns = mask.shape
    log_aspect = math.log(MIN_BLOCK_ASPECT)
    for _ in range(BLOCK_TRIES):
        area = rng.uniform(MIN_BLOCK_PATCHES, most)
        aspect = math.exp(rng.uniform(log_aspect, -log_aspect))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if height >= rows or width >= columns:
            continue
        top, left = rng.randint(0, rows - height), rng.randint(0, columns - width)
        block = mask[top : top + height, left : left + width]
        added = block.size - int(np.count_nonzero(block))
        if 0 < added <= most:
            block[:] = True
            return added
    return 0


def _ratios(crops: int, probability: float, ratio: tuple[float, float]) -> np.ndarray:
    """float32 bounds of the intervals of ratios, one more than masked crops, as torch.linspace."""
    count = int(crops * probability)
    low, high = np.asarray(ratio, np.float32)
    step = (high - low) / np.float32(max(count, 1))
    index = np.arange(count + 1, dtype=np.float32)
    # Counted from the nearer end, which decides where int(N * ratio) is cut.
    return np.where(index < (count + 1) // 2, low + step * index, high - step * (count - index))
