"""Images of any number of channels as people look at them."""

import numpy as np


def as_rgb(pixels: np.ndarray) -> np.ndarray:
    """RGB as it is, one channel as gray, of others the first three; a missing one is black.

    Args:
      pixels: [H, W, C] uint8.

    Returns:
      [H, W, 3] uint8.
    """
    channels = pixels.shape[2]
    if channels == 3:
        return pixels
    if channels == 1:
        return np.repeat(pixels, 3, axis=2)
    missing = max(0, 3 - channels)
    return np.pad(pixels[..., :3], ((0, 0), (0, 0), (0, missing)))
