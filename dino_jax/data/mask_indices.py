"""Masked patches as lists of indices."""

import numpy as np


def index_masks(masks: np.ndarray, bound: int) -> dict[str, np.ndarray]:
    """Lists the masked patches of a group in arrays whose shape does not depend on the draw.

    Args:
      masks: [B, G, N] bool.
      bound: U, at least the number of masked patches.

    Returns:
      "mask_indices": [U] int32, indices into the B * G * N patches of the group, ascending, padded
      with 0; "mask_weight": [U] float32, 1 / (masked patches of the same crop), 0 for padding.

    Raises:
      ValueError: if more than `bound` patches are masked.
    """
    indices = np.flatnonzero(masks)
    if len(indices) > bound:
        raise ValueError(f"{len(indices)} patches are masked, more than the bound of {bound}")
    per_crop = masks.sum(axis=-1, dtype=np.float32).ravel()
    padding = (0, bound - len(indices))
    return {
        "mask_indices": np.pad(indices.astype(np.int32), padding),
        "mask_weight": np.pad(1 / per_crop[indices // masks.shape[-1]], padding),
    }
