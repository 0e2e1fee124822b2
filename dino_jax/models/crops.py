"""What a backbone sees."""

from typing import NamedTuple

import jax


class Crops(NamedTuple):
    """Crops of one size.

    Attributes:
      images: [B, H, W, C]
      masks: bool [B, N], patches that the mask token replaces, if any.
      drop_path_permutations: a recorded draw of subsets to repeat, see
        `stochastic_depth.choose_subsets`; no "drop_path" RNG is needed then.
    """

    images: jax.Array
    masks: jax.Array | None = None
    drop_path_permutations: jax.Array | None = None
