"""What a backbone sees."""

from typing import NamedTuple

import jax


class Crops(NamedTuple):
    """Crops of one size.

    Attributes:
      images: [B, H, W, C]
      masks: bool [B, N], patches that the mask token replaces, if any.
    """

    images: jax.Array
    masks: jax.Array | None = None
