"""Bilinear resizing without antialiasing, pixel centers aligned, like torch's `interpolate`.

A resize is two small matrix products, the same for NumPy and for JAX arrays.
"""

from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

Array = TypeVar("Array", np.ndarray, jax.Array)


class Taps(NamedTuple):
    """The two source pixels of each pixel of a result, along one axis; any arrays.

    Attributes:
      below: [out_size] int64.
      above: [out_size] int64.
      share: [out_size] float32 weight of `above`; `below` has the rest.
    """

    below: Any
    above: Any
    share: Any


def bilinear_taps(in_size: int, out_size: int, step: float | None = None) -> Taps:
    """See `bilinear_matrix`."""
    step = in_size / out_size if step is None else step
    # In float32, as torch: at 500 pixels that moves a result by 1e-4 times the pixels' difference.
    centers = np.arange(out_size, dtype=np.float32) + np.float32(0.5)
    source = np.maximum(centers * np.float32(step) - np.float32(0.5), np.float32(0))
    below = np.minimum(source.astype(np.int64), in_size - 1)
    share = source - below.astype(np.float32)
    return Taps(below, np.minimum(below + 1, in_size - 1), share)


@lru_cache(maxsize=1024)
def bilinear_matrix(in_size: int, out_size: int, step: float | None = None) -> np.ndarray:
    """Weights of a resize along one axis.

    Args:
      in_size: pixels of the source.
      out_size: pixels of the result.
      step: pixels of the source per pixel of the result. None: `in_size / out_size`; torch takes 1
        / scale instead when it is given a scale, which differs if in_size * scale is not whole.

    Returns:
      [out_size, in_size] float32; rows sum to 1.
    """
    below, above, share = bilinear_taps(in_size, out_size, step)
    matrix, rows = np.zeros((out_size, in_size), np.float32), np.arange(out_size)
    np.add.at(matrix, (rows, below), 1 - share)
    np.add.at(matrix, (rows, above), share)
    return matrix


def resize(x: Array, height: int, width: int) -> Array:
    """Resizes [..., H, W, C] floats to [..., height, width, C]."""
    rows, columns = bilinear_matrix(x.shape[-3], height), bilinear_matrix(x.shape[-2], width)
    return _multiply(x, rows, columns)


def rescale(x: Array, scale: float) -> Array:
    """Resizes [..., H, W, C] floats to [..., floor(H * scale), floor(W * scale), C].

    Raises:
      ValueError: if the result would be empty.
    """
    height, width = (int(side * scale) for side in x.shape[-3:-1])
    if min(height, width) < 1:
        raise ValueError(
            f"an image of {x.shape[-3]} x {x.shape[-2]} pixels times {scale:g} would be empty"
        )
    rows = bilinear_matrix(x.shape[-3], height, 1 / scale)
    return _multiply(x, rows, bilinear_matrix(x.shape[-2], width, 1 / scale))


def _multiply(x: Any, rows: np.ndarray, columns: np.ndarray) -> Any:
    # Default precision on a TPU is bfloat16.
    with jax.default_matmul_precision("highest"):
        wide = columns @ x
        flat = wide.reshape(*wide.shape[:-2], -1)
        return (rows @ flat).reshape(*x.shape[:-3], len(rows), *wide.shape[-2:])
