"""Small arrays as pictures: colors, enlarging, overlays, rows of tiles."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dino_jax.data.viewable import as_rgb

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
CAPTION = 18  # height of a line of text in pixels
PHOTOGRAPH = 160  # pixels of the short side of a photograph that people look at
SMALLEST_TILE = 96  # pixels; smaller images are enlarged by a whole factor


def apply_heat(values: np.ndarray) -> np.ndarray:
    """Colors numbers: 0 is black, 1 pale yellow.

    Args:
      values: [...] in [0, 1]; values beyond are clipped.

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


def enlarge_whole(image: np.ndarray) -> np.ndarray:
    """RGB, enlarged by the smallest whole factor that gives SMALLEST_TILE pixels."""
    image = as_rgb(image)
    factor = math.ceil(SMALLEST_TILE / min(image.shape[:2]))
    return enlarge(image, factor * image.shape[0], factor * image.shape[1])


def photograph(image: np.ndarray) -> np.ndarray:
    """A photograph to look at: short side to PHOTOGRAPH pixels, long side cut to twice as many.

    Args:
      image: [H, W, C] uint8 of any size; shown by `as_rgb`.
    """
    image = as_rgb(image)
    scale = PHOTOGRAPH / min(image.shape[:2])
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    resized = np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    height, width = (min(side, 2 * PHOTOGRAPH) for side in resized.shape[:2])
    top, left = (resized.shape[0] - height) // 2, (resized.shape[1] - width) // 2
    return resized[top : top + height, left : left + width]


def pad_below(picture: np.ndarray, height: int) -> np.ndarray:
    """[h, w, 3] to [height, w, 3], with the background below."""
    missing = height - picture.shape[0]
    return np.pad(picture, ((0, missing), (0, 0), (0, 0)), constant_values=BACKGROUND)


def overlay(image: np.ndarray, colors: np.ndarray, opacity: float = 0.6) -> np.ndarray:
    """Puts colors over an image in gray.

    Args:
      image: [H, W, 3] uint8.
      colors: [h, w, 3] uint8, enlarged to the image.
      opacity: opacity of the colors, in [0, 1].

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


def dim_outside(image: np.ndarray, kept: np.ndarray, opacity: float = 0.75) -> np.ndarray:
    """Leaves an image as it is where `kept` is true, and dark and gray elsewhere.

    Args:
      image: [H, W, 3] uint8.
      kept: bool [h, w], enlarged to the image.
      opacity: opacity of the darkness, in [0, 1].
    """
    gray = image.astype(np.float32).mean(axis=-1, keepdims=True) * (1 - opacity)
    inside = enlarge(kept, *image.shape[:2])[..., None]
    return np.where(inside, image, np.round(gray)).astype(np.uint8)


def mark_patch(image: np.ndarray, row: int, column: int, patch_size: int) -> np.ndarray:
    """A copy with a white and black frame around one patch."""
    marked = image.copy()
    top, left = row * patch_size, column * patch_size
    for inset, level in ((-1, 0), (0, 255), (1, 0)):
        rows = max(top + inset, 0), min(top + patch_size - inset, image.shape[0]) - 1
        columns = max(left + inset, 0), min(left + patch_size - inset, image.shape[1]) - 1
        marked[rows[0] : rows[1] + 1, list(columns)] = level
        marked[list(rows), columns[0] : columns[1] + 1] = level
    return marked


def tile_rows(rows: Sequence[Sequence[np.ndarray]], gap: int = 4) -> np.ndarray:
    """Stacks rows of pictures, each row of one height: [H, W, 3] uint8."""
    joined = [tile_row(row, gap) for row in rows]
    width = max(row.shape[1] for row in joined)
    parts = []
    for row in joined:
        right = np.full((row.shape[0], width - row.shape[1], 3), BACKGROUND, np.uint8)
        between = np.full((gap, width, 3), BACKGROUND, np.uint8)
        parts += [between, np.concatenate([row, right], axis=1)]
    return np.concatenate(parts[1:])


def caption(image: np.ndarray, text: str) -> np.ndarray:
    """The image with a line of text below, cut where it ends: [H, W, 3] to [H + CAPTION, W, 3]."""
    below = Image.new("RGB", (image.shape[1], CAPTION), (BACKGROUND,) * 3)
    font = ImageFont.load_default(CAPTION - 6)
    ImageDraw.Draw(below).text((2, 1), text, (235, 235, 235), font)
    return np.concatenate([image, np.array(below)])
