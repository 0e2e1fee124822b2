"""SKUs that are held out: whole ones, never single photographs."""

from typing import NamedTuple

import numpy as np

from dino_jax.tuning.skus import NONE, Skus

FEWEST = 12  # held-out SKUs with several photographs; of fewer, intervals are too narrow
LEAST_SHARE = 0.1  # of the SKUs that are held out


class Split(NamedTuple):
    """A division of the SKUs.

    Attributes:
      trained: numbers of SKUs to learn from.
      held_out: numbers of SKUs with several photographs that are measured.
    """

    trained: np.ndarray
    held_out: np.ndarray


def split_skus(skus: Skus, share: float, seed: int, least_photos: int) -> Split:
    """Divides SKUs at random; those with one photograph are not measured: nothing could be found.

    Args:
      skus: all SKUs.
      share: of those with several photographs that is held out, at least `LEAST_SHARE`.
      seed: of the draw.
      least_photos: of a SKU to learn from.

    Raises:
      ValueError: if too few are left on a side.
    """
    sizes = np.bincount(skus.of[skus.of != NONE], minlength=len(skus.names))
    several = np.flatnonzero(sizes >= 2)
    held = max(FEWEST, round(share * len(several)))
    if len(several) < 2 * FEWEST:
        raise ValueError(
            f"{len(several)} SKUs have at least two photos, of {len(sizes)}; at least {2 * FEWEST} "
            f"are needed: {FEWEST} to learn from and {FEWEST} to measure with"
        )
    order = np.random.default_rng((seed, 0)).permutation(several)
    left = np.setdiff1d(np.flatnonzero(sizes >= least_photos), order[:held])
    return Split(left, np.sort(order[:held]))
