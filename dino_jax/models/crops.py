"""The input of a backbone."""

from typing import NamedTuple

import jax


class Crops(NamedTuple):
    """Crops of one size.

    Attributes:
      images: [B, H, W, C]
      masks: bool [B, N], patches that the mask token replaces, if any.
      visible: int32 [B, k], different indices of the patches that are encoded, in the order of the
        features; None for all. Positions are those in the whole image.
    """

    images: jax.Array
    masks: jax.Array | None = None
    visible: jax.Array | None = None
