"""Whole images in arrays of one size, from which the device cuts the crops (`step/canvas.py`)."""

import numpy as np

from dino_jax.data.geometry import resize_crops, split_columns
from dino_jax.workdir.host_kernel import kernel

# Columns of a row that says where a crop is.
LEFT, TOP, RIGHT, BOTTOM = 0, 1, 2, 3  # edges in pixels of the canvas, of any fraction
FLIP = 4  # 1 to mirror left and right, or 0
FRAME = 5  # number of the canvas of the image, for clips
BILINEAR = 6  # 1 for a bilinear filter, 0 for a bicubic one
BOX_COLUMNS = 7


def place(pixels: np.ndarray, canvas: np.ndarray) -> tuple[float, float]:
    """Writes an image into the upper left corner of a canvas, and black into the rest.

    An image that is too high or too wide is reduced until it fits, with the aspect that it has,
    by Pillow's antialiased bicubic filter.

    Args:
      pixels: [h, w, C] uint8.
      canvas: [C, H, W] uint8, one plane per channel, contiguous; overwritten.

    Returns:
      Pixels of the canvas per pixel of the image, along the height and the width: at most 1.
    """
    height, width = pixels.shape[:2]
    most_height, most_width = canvas.shape[1:]
    if height <= most_height and width <= most_width:
        if len(canvas) != 3:
            canvas[:, :height, :width] = pixels.transpose(2, 0, 1)
            _blacken(canvas, height, width)
            return 1.0, 1.0
        _split_colors(np.ascontiguousarray(pixels).reshape(height, -1), canvas)
        return 1.0, 1.0
    new_height, new_width = fitting_size((height, width), (most_height, most_width))
    box, upright = np.array([(0.0, 0.0, width, height)]), np.array([False])
    _copy_planes(
        resize_crops(split_columns(pixels), box, upright, new_height, new_width)[0], canvas
    )
    return new_height / height, new_width / width


def fitting_size(size: tuple[int, int], room: tuple[int, int]) -> tuple[int, int]:
    """The largest (height, width) of an image of the same aspect that a canvas can hold."""
    ratio = min(1.0, room[0] / size[0], room[1] / size[1])
    height, width = (max(1, round(side * ratio)) for side in size)
    return min(height, room[0]), min(width, room[1])


@kernel
def _split_colors(rows, canvas):
    """rows [h, 3 w]: pixel after pixel."""
    height, width = rows.shape[0], rows.shape[1] // 3
    for y in range(height):
        row = rows[y]
        red, green, blue = canvas[0, y], canvas[1, y], canvas[2, y]
        for x in range(width):
            red[x] = row[3 * x]
            green[x] = row[3 * x + 1]
            blue[x] = row[3 * x + 2]
    _blacken(canvas, height, width)


@kernel
def _copy_planes(planes, canvas):
    for color in range(len(planes)):
        for y in range(planes.shape[1]):
            for x in range(planes.shape[2]):
                canvas[color, y, x] = planes[color, y, x]
    _blacken(canvas, planes.shape[1], planes.shape[2])


@kernel
def _blacken(canvas, height, width):
    """Everything below row `height` and right of column `width`."""
    for color in range(len(canvas)):
        for y in range(height):
            canvas[color, y, width:] = 0
        canvas[color, height:] = 0
