"""The choice of masked patches: the section `config.masking`, and its kinds."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dino_jax.config.range import MOST_IMAGES
from dino_jax.config.section import option, suggest
from dino_jax.data.block_masking import BlockMasking
from dino_jax.data.groups import Group
from dino_jax.data.random_masking import RandomMasking

MASKED_GROUP = "global"  # group of crops (config.augment.crops.NAME.group) that get masks


class Masking(Protocol):
    """The masks of a run, a pure function of (seed, step, group of images); picklable."""

    @property
    def group_size(self) -> int:
        """Images per group."""
        ...

    def layout(self, images: int) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shapes and dtypes of the arrays for whole groups of `images` images in total."""
        ...

    def __call__(self, seed: int, step: int, group: int) -> dict[str, np.ndarray]:
        """The entries of `layout` for one group of the global batch of a step."""
        ...


# By kind; each takes grid, crops, group_size, probability and ratio.
MASKINGS: dict[str, Callable[..., Masking]] = {"block": BlockMasking, "random": RandomMasking}


@dataclass(frozen=True)
class MaskingConfig:
    """Masked patches of the crops of the group "global"."""

    kind: str = option("block", "block (BEiT, DINOv2) | random (MAE)", among=MASKINGS)
    probability: float = option(
        0.0, "share of the crops with a mask; 0: no masks; random: 1", at_least=0, at_most=1
    )
    ratio: tuple[float, float] = option(
        (0.1, 0.5),
        "(lowest, highest) share of patches masked in such a crop; random: the second one in all",
        at_least=0,
        at_most=1,
    )
    group_size: int = option(
        32,
        "images that share one draw; divides the images per device",
        at_least=1,
        at_most=MOST_IMAGES,
    )


def build_masking(
    config: Any, *, groups: Mapping[str, Group], patch_size: int, batch_size: int
) -> Masking | None:
    """Builds the masks of `config.masking`; None if its probability is 0.

    Args:
      config: the section.
      groups: groups of crops.
      patch_size: patch size of the backbone, in pixels.
      batch_size: images per pass; no draw spans two passes.

    Raises:
      ValueError: if the kind is unknown, nothing would be masked, `group_size` does not fit the
        batch, or there are no crops to mask.
    """
    if config.probability == 0:
        return None
    if config.kind not in MASKINGS:
        raise ValueError(
            f"config.masking.kind is {config.kind!r}; {suggest(config.kind, MASKINGS)}"
        )
    if not 0 <= config.probability <= 1:
        raise ValueError(f"config.masking.probability ({config.probability}) must be in [0, 1]")
    low, high = config.ratio
    if not 0 <= low <= high <= 1:
        raise ValueError(f"config.masking.ratio ({low}, {high}) must rise within [0, 1]")
    if MASKED_GROUP not in groups:
        raise ValueError(
            f"config.masking.probability ({config.probability}) masks crops of the group "
            f"{MASKED_GROUP!r}, config.augment.crops has {', '.join(groups)}; rename one of them, "
            "or set --config.masking.probability=0.0"
        )
    if config.group_size < 1 or batch_size % config.group_size:
        raise ValueError(
            f"config.masking.group_size ({config.group_size}) must divide the {batch_size} images "
            f"of a pass; try --config.masking.group_size={math.gcd(batch_size, config.group_size)}"
        )
    masked = groups[MASKED_GROUP]
    height, width = masked.size
    return MASKINGS[config.kind](
        grid=(height // patch_size, width // patch_size),
        crops=len(masked.crops),
        group_size=config.group_size,
        probability=config.probability,
        ratio=(low, high),
    )
