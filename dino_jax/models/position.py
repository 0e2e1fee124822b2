"""Tables of position embeddings: sines and cosines, and their exact official resize.

Both kernels of the resize are separable, so a resize of a [GH, GW, D] grid is two small matrix
products whose matrices depend on shapes only: they are NumPy constants of the compiled program and
gradients flow through them.
"""

from collections.abc import Callable
from functools import lru_cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dino_jax.models.layers import linear_init

Grid = tuple[int, int]


def _keys_cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Cubic convolution kernel with support 2 (Keys 1981, Eq. 4)."""
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


@lru_cache(maxsize=256)
def bicubic_matrix(in_size: int, out_size: int, offset: float = 0.1) -> np.ndarray:
    """[out_size, in_size] weights of the position resize of DINO and DINOv2 along one axis.

    torch's bicubic (a = -0.75, four taps, clamped borders, no antialias) with the scale factor
    (out_size + 0.1) / in_size: torch keeps the given factor, so the 0.1 shrinks the sampling step
    a little. Hugging Face's transformers passes the size instead, which is an offset of 0.
    """
    source = (np.arange(out_size) + 0.5) * in_size / (out_size + offset) - 0.5
    first_tap = np.floor(source).astype(int) - 1
    matrix = np.zeros((out_size, in_size))
    for tap in range(4):
        column = np.clip(first_tap + tap, 0, in_size - 1)
        np.add.at(
            matrix, (np.arange(out_size), column), _keys_cubic(first_tap + tap - source, -0.75)
        )
    return matrix


@lru_cache(maxsize=256)
def antialiased_matrix(in_size: int, out_size: int) -> np.ndarray:
    """[out_size, in_size] weights of the position resize of DINOv2 with registers along one axis.

    Keys cubic with a = -0.5 whose support grows with the reduction; weights beyond the border are
    dropped and the rest renormalized.
    """
    scale = in_size / out_size
    center = (np.arange(out_size) + 0.5) * scale - 0.5
    matrix = _keys_cubic((np.arange(in_size) - center[:, None]) / max(scale, 1.0), -0.5)
    return matrix / matrix.sum(axis=1, keepdims=True)


POSITION_KERNELS: dict[str, Callable[[int, int], np.ndarray]] = {
    "bicubic": bicubic_matrix,
    "bicubic_plain": partial(bicubic_matrix, offset=0.0),
    "antialiased": antialiased_matrix,
}


def sincos_table(dim: int, grid: Grid, rows_first: bool) -> np.ndarray:
    """Fixed position embeddings of a grid: sines and cosines of both coordinates.

    The first half of the channels is of one coordinate, the second of the other; each has the sines
    of all frequencies 10000^(-4 i / D), then the cosines (MAE, arXiv:2111.06377; MoCo v3,
    arXiv:2104.02057, Sec. 4.2; as arXiv:1706.03762, Sec. 3.5).

    Args:
      dim: D, a multiple of 4.
      grid: (GH, GW).
      rows_first: whether the first half is of the row (MoCo v3), not of the column (MAE).

    Returns:
      [1, 1 + GH * GW, D] float32; the cls token's are 0.
    """
    frequencies = 10_000.0 ** (-np.arange(dim // 4) / (dim // 4))
    rows, columns = np.meshgrid(*map(np.arange, grid), indexing="ij")
    axes = (rows, columns) if rows_first else (columns, rows)
    angles = [np.outer(axis.ravel(), frequencies) for axis in axes]
    patches = np.concatenate([wave(x) for x in angles for wave in (np.sin, np.cos)], axis=1)
    return np.concatenate([np.zeros((1, dim)), patches])[None].astype(np.float32)


def init_positions(position: str, grid: Grid) -> nn.initializers.Initializer:
    """The initializer of a table [1, 1 + GH * GW, D]; `position` is one of `POSITIONS`."""
    if position == "learned":
        return linear_init
    rows_first = position == "rows_first"
    return lambda key, shape: jnp.asarray(sincos_table(shape[-1], grid, rows_first))


POSITIONS = ("learned", "columns_first", "rows_first")


def resize_position_embedding(
    embedding: jax.Array, table_grid: Grid, grid: Grid, image_size: Grid, kernel: str
) -> jax.Array:
    """Resizes the patch part of a position embedding to the patch grid of an image.

    A square table is used unchanged only for a square image with the same number of patches: the
      official code
    also resamples 64 x 71 pixels onto the same 8 x 8 grid (spec of DINO v1, section 1.3).

    Args:
      embedding: [1, 1 + GH * GW, D]; entry 0 belongs to the cls token and is never changed.
      table_grid: (GH, GW), the patch grid for which the table was made.
      grid: (h, w), the patch grid of the image.
      image_size: (H, W) of the image in pixels.
      kernel: a key of `POSITION_KERNELS`.

    Returns:
      [1, 1 + h * w, D] in the dtype of `embedding`.
    """
    square_table = table_grid[0] == table_grid[1]
    same_grid = grid == table_grid if not square_table else image_size[0] == image_size[1]
    if same_grid and grid[0] * grid[1] == table_grid[0] * table_grid[1]:
        return embedding
    matrix = POSITION_KERNELS[kernel]
    rows = jnp.asarray(matrix(table_grid[0], grid[0]), embedding.dtype)
    columns = jnp.asarray(matrix(table_grid[1], grid[1]), embedding.dtype)
    cls, patches = embedding[:, :1], embedding[:, 1:]
    patches = patches.reshape(*table_grid, -1)
    patches = jnp.einsum("hg,gwd->hwd", rows, patches, precision="highest")
    patches = jnp.einsum("wg,hgd->hwd", columns, patches, precision="highest")
    return jnp.concatenate([cls, patches.reshape(1, grid[0] * grid[1], -1)], axis=1)
