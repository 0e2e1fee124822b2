"""Similarity of patches to one patch, as the network sees them."""

import numpy as np


def cosine_map(features: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Cosine similarity of every patch with one.

    Args:
      features: [h, w, D] patch features of an image.
      query: [D] features of the one patch.

    Returns:
      [h, w] float32 in [-1, 1].
    """
    norms = np.linalg.norm(features, axis=-1) * np.linalg.norm(query)
    return (features @ query / np.maximum(norms, 1e-12)).astype(np.float32)


def patch_at(point: tuple[int, int], size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Row and column of the patch below a point.

    Args:
      point: (x, y) in pixels, from the left and from the top.
      size: (height, width) of the image.
      patch_size: side of a patch in pixels.

    Raises:
      ValueError: if the point is outside.
    """
    x, y = point
    height, width = size
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(
            f"--point={x},{y} is outside of the image, whose width is {width} and height {height} "
            "pixels as the network sees it"
        )
    return y // patch_size, x // patch_size
