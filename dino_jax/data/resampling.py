"""Resizes pixels of any number of channels with Pillow's filters."""

import numpy as np
from PIL import Image


def resize_pixels(
    pixels: np.ndarray, size: tuple[int, int], resampling: Image.Resampling
) -> np.ndarray:
    """Resizes an image; each channel by itself, rounded to uint8 as Pillow does.

    Args:
      pixels: [H, W, C] uint8.
      size: (height, width) of the result in pixels.
      resampling: filter, with antialiasing.

    Returns:
      [height, width, C] uint8.
    """
    height, width = size
    if pixels.shape[2] == 3:
        return np.array(Image.fromarray(pixels).resize((width, height), resampling))
    planes = [
        np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize((width, height), resampling))
        for plane in np.moveaxis(pixels, 2, 0)
    ]
    return np.stack(planes, axis=2)
