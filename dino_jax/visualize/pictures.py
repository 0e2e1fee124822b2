"""Small arrays as pictures: colors, enlarging, overlays, rows of tiles."""

from collections.abc import Sequence

import numpy as np

# Dark to light through purple and orange; lightness grows evenly, so that it also reads in gray.
HEAT = np.array(
    [
        (6, 6, 20),
        (62, 15, 92),
        (138, 30, 98),
        (205, 58, 66),
        (244, 124, 24),
        (250, 199, 70),
        (252, 253, 190),
    ],
    np.float32,
)
BACKGROUND = 24  # gray between tiles


def apply_heat(values: np.ndarray) -> np.ndarray:
    """Colors numbers: 0 is black, 1 pale yellow.

    Args:
      values: [...] in [0, 1]; what lies beyond is clipped.

    Returns:
      [..., 3] uint8.
    """
    position = np.clip(values, 0, 1).astype(np.float32) * (len(HEAT) - 1)
    below = np.minimum(position.astype(np.int64), len(HEAT) - 2)
    share = (position - below)[..., None]
    return np.round(HEAT[below] * (1 - share) + HEAT[below + 1] * share).astype(np.uint8)


def enlarge(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Repeats pixels, so that a patch stays a square: [h, w, ...] to [height, width, ...]."""
    rows = np.arange(height) * picture.shape[0] // height
    columns = np.arange(width) * picture.shape[1] // width
    return picture[rows][:, columns]


def overlay(image: np.ndarray, colors: np.ndarray, opacity: float = 0.6) -> np.ndarray:
    """Puts colors over an image in gray.

    Args:
      image: [H, W, 3] uint8.
      colors: [h, w, 3] uint8, enlarged to the image.
      opacity: of the colors, in [0, 1].

    Returns:
      [H, W, 3] uint8.
    """
    gray = image.astype(np.float32).mean(axis=-1, keepdims=True)
    above = enlarge(colors, *image.shape[:2]).astype(np.float32)
    return np.round((1 - opacity) * gray + opacity * above).astype(np.uint8)


def tile_row(pictures: Sequence[np.ndarray], gap: int = 2) -> np.ndarray:
    """Pictures side by side: n x [h, w, 3] uint8 to [h, n * w + (n - 1) * gap, 3]."""
    height = pictures[0].shape[0]
    between = np.full((height, gap, 3), BACKGROUND, np.uint8)
    parts = [part for picture in pictures for part in (between, picture)][1:]
    return np.concatenate(parts, axis=1)
