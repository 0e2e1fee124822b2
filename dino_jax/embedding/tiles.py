"""An image of any size as overlapping tiles of whole patches, and their features as one map.

Positions and sizes are (row, column) in patches unless said otherwise.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from dino_jax.data.resampling import resize_pixels

Grid = tuple[int, int]


class Tile(NamedTuple):
    """A rectangle of patches: where it begins, and its size."""

    start: Grid
    grid: Grid


def fit_grid(size: tuple[int, int], patch_size: int, short_side: int | None) -> Grid:
    """The patches of an image whose short side is resized, or that keeps its size.

    Args:
      size: (height, width) of the image in pixels.
      patch_size: side of a patch in pixels.
      short_side: pixels of the short side afterwards; None keeps the size.

    Returns:
      The nearest whole numbers of patches, at least 1.
    """
    scale = 1.0 if short_side is None else short_side / min(size)
    rows, columns = (max(1, round(pixels * scale / patch_size)) for pixels in size)
    return rows, columns


def resize_to_grid(image: np.ndarray, grid: Grid, patch_size: int) -> np.ndarray:
    """[H, W, C] uint8 to the pixels of a grid of patches, antialiased bicubic as in evaluations."""
    height, width = (count * patch_size for count in grid)
    if image.shape[:2] == (height, width):
        return image
    return resize_pixels(image, (height, width), Image.Resampling.BICUBIC)


def cut_into_tiles(grid: Grid, side: int, overlap: int) -> list[Tile]:
    """Tiles that cover a grid, evenly spaced, row by row.

    Args:
      grid: patches of the image.
      side: patches of a tile's side, at most; a grid that fits in it is one tile.
      overlap: patches that neighbours share, at least; below `side`.

    Returns:
      Tiles of one size.
    """
    tops, lefts = (_starts(count, side, overlap) for count in grid)
    size = (min(side, grid[0]), min(side, grid[1]))
    return [Tile((top, left), size) for top in tops for left in lefts]


def merge_tiles(tiles: Sequence[Tile], features: Sequence[np.ndarray], grid: Grid) -> np.ndarray:
    """One map of the features of all tiles.

    Where tiles overlap, their features are averaged; the weight of a tile falls linearly towards
    its edges, where a patch has seen the least of its surroundings.

    Args:
      tiles: from `cut_into_tiles`.
      features: [h, w, D] of each tile.
      grid: (H, W) of the image.

    Returns:
      [H, W, D] float32; of a single tile its very features.
    """
    if len(tiles) == 1:
        return np.asarray(features[0], np.float32)
    sums = np.zeros((*grid, features[0].shape[-1]), np.float32)
    weights = np.zeros((*grid, 1), np.float32)
    for tile, values in zip(tiles, features, strict=True):
        rows, columns = (
            slice(start, start + count) for start, count in zip(tile.start, tile.grid, strict=True)
        )
        weight = np.multiply.outer(*map(_tent, tile.grid))[..., None]
        sums[rows, columns] += weight * values
        weights[rows, columns] += weight
    return sums / weights


def _starts(count: int, side: int, overlap: int) -> list[int]:
    """Where the tiles of one axis begin."""
    if count <= side:
        return [0]
    tiles = -(-(count - overlap) // (side - overlap))
    return [round(index * (count - side) / (tiles - 1)) for index in range(tiles)]


def _tent(count: int) -> np.ndarray:
    """1, 2, 3 … 3, 2, 1."""
    index = np.arange(count, dtype=np.float32)
    return np.minimum(index + 1, count - index)
