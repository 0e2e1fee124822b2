"""Bicubic resizing of grids of features, as torch's interpolate does it without antialiasing."""

import jax
import jax.numpy as jnp
import numpy as np

SHARPNESS = -0.75  # torch; Pillow has -0.5


def resize_grid(features: jax.Array, grid: tuple[int, int], size: tuple[int, int]) -> jax.Array:
    """Resizes maps of features, channel by channel.

    Four neighbors per axis and Keys' kernel with a = -0.75 (doi:10.1109/TASSP.1981.1163711), pixel
    centers at halves, edges repeated. Nothing is averaged: halving a side takes 4 of 8 rows.

    Args:
      features: [..., N, D] float32, row by row.
      grid: (rows, columns), whose product is N.
      size: (rows, columns) of the result.

    Returns:
      [..., rows * columns, D] float32.
    """
    maps = features.reshape(*features.shape[:-2], *grid, features.shape[-1])
    down, across = (jnp.asarray(weigh(*pair)) for pair in zip(grid, size, strict=True))
    resized = jnp.einsum("rh,...hwd,cw->...rcd", down, maps, across, precision="highest")
    return resized.reshape(*features.shape[:-2], size[0] * size[1], features.shape[-1])


def weigh(old: int, new: int) -> np.ndarray:
    """Matrix of one axis: [new, old] float32, rows with sum 1."""
    centers = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(centers).astype(int) - 1
    matrix = np.zeros((new, old))
    for tap in range(4):
        distances = np.abs(centers - (first + tap))
        columns = np.clip(first + tap, 0, old - 1)
        np.add.at(matrix, (np.arange(new), columns), _kernel(distances))
    return matrix.astype(np.float32)


def _kernel(distance: np.ndarray) -> np.ndarray:
    a = SHARPNESS
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def find_grid(height: int, width: int, patches: int) -> tuple[int, int]:
    """(rows, columns) of the patches of an image; what no whole patch covers is cut off.

    Args:
      height: height of the image in pixels.
      width: its width.
      patches: N, their number.

    Raises:
      ValueError: if no size of square patches gives so many.
    """
    for side in range(1, min(height, width) + 1):
        rows, columns = height // side, width // side
        if rows * columns == patches:
            return rows, columns
    raise ValueError(f"an image of {height} x {width} pixels has no {patches} square patches")
