"""Turns image files into pixels; into RGB with the result of torchvision's ImageFolder."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from dino_jax.config.range import MAX_PIXELS
from dino_jax.data.decoding import RGB, Decoding
from dino_jax.data.levels import Bytes, Full
from dino_jax.foreign.files import MAX_IMAGE_BYTES, read_bytes
from dino_jax.foreign.numbers import SIDEWAYS, orientation_of, read_numbers, turn_upright
from dino_jax.foreign.pictures import UnreadableImageError, opened_picture, require_few_scans

__all__ = [
    "MAX_PIXELS",
    "REDUCTIONS",
    "Still",
    "UnreadableImageError",
    "decode_image",
    "decode_still",
    "read_image_file",
]

REDUCTIONS = (8, 4, 2)  # that libjpeg's inverse DCT makes fast
_JPEG = b"\xff\xd8\xff"
_PLAIN_COLORS = ("YCbCr", "Gray", "RGB")


class Still(NamedTuple):
    """A decoded image, which its decoder may have reduced.

    Attributes:
      pixels: [h, w, C] uint8.
      size: (height, width) of the image itself, in pixels.
      reduction: r, pixels of the image per pixel here along each axis: h is height / r, rounded up.
    """

    pixels: np.ndarray
    size: tuple[int, int]
    reduction: int = 1


def decode_still(
    data: bytes, max_pixels: int, reduce: Callable[[int, int], int], decoding: Decoding = RGB
) -> Still:
    """Decodes one image file as `decode_image` does, but large JPEGs reduced, and so faster.

    The decoder averages: it leaves the high frequencies of each block of 8 x 8 pixels out.

    Args:
      data: the bytes of an image file.
      max_pixels: largest height * width of the image itself.
      reduce: gives one of `REDUCTIONS`, or 1, for the height and width of an image.
      decoding: see `decode_image`.

    Raises:
      UnreadableImageError, MemoryError: as `decode_image`.
    """
    if data.startswith(_JPEG) and _takes_jpegs(decoding):
        still = _decode_plain_jpeg(data, max_pixels, decoding.upright, reduce)
        if still is not None:
            return still
    pixels = decode_image(data, max_pixels, decoding)
    return Still(pixels, pixels.shape[:2])


def decode_image(data: bytes, max_pixels: int, decoding: Decoding = RGB) -> np.ndarray:
    """Decodes one image file, by default as `PIL.Image.open(file).convert("RGB")` does.

    As in torchvision's `default_loader`, which the official DINO code uses, alpha is dropped, of
    several frames the first is taken, and the orientation of EXIF is ignored unless asked for. An
    image of which that would lose bits or channels is unreadable: see docs/images.md.

    Args:
      data: the bytes of an image file in one of `pictures.FORMATS`, or .npy.
      max_pixels: largest height * width that is decoded; checked on the header, before any
        memory is taken for pixels. Pillow's own limit, 2 * `PIL.Image.MAX_IMAGE_PIXELS` (about
        179 million), holds as well.
      decoding: channels, range and orientation.

    Returns:
      [H, W, C] uint8, in its own memory.

    Raises:
      UnreadableImageError: if the bytes are not a complete image, it is over the limit, its
        channels or its range do not fit, or its decoder fails in any other way.
      MemoryError: if there is no memory for a small image either.
    """
    if not data:
        raise UnreadableImageError("the file is empty (0 bytes)")
    if data.startswith(_JPEG) and _takes_jpegs(decoding):
        still = _decode_plain_jpeg(data, max_pixels, decoding.upright)
        if still is not None:
            return still.pixels
    return decoding(read_numbers(data, max_pixels, decoding.channels, decoding.upright))


def read_image_file(
    path: str | os.PathLike, max_pixels: int, decoding: Decoding = RGB
) -> np.ndarray:
    """Reads and decodes one image file, local or remote; see `decode_image`.

    Raises:
      FileNotFoundError: if there is no such file.
      UnreadableImageError: if it can't be read, is no regular file, or can't be decoded.
    """
    try:
        data = read_bytes(path, MAX_IMAGE_BYTES)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not Path(path).is_symlink():
            raise
        raise UnreadableImageError(str(error)) from error
    return decode_image(data, max_pixels, decoding)


def _takes_jpegs(decoding: Decoding) -> bool:
    """Whether the pixels of a JPEG in RGB need no more than to be turned."""
    return decoding.channels == 3 and isinstance(decoding.rule, Bytes | Full)


def _decode_plain_jpeg(
    data: bytes,
    max_pixels: int,
    upright: bool,
    reduce: Callable[[int, int], int] = lambda height, width: 1,
) -> Still | None:
    """None for images that Pillow may treat differently: CMYK, damaged and oversized files."""
    require_few_scans(data)
    limit = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
        if int(height) * int(width) > limit or colors not in _PLAIN_COLORS:
            return None
        size = (int(height), int(width))
        orientation = _read_orientation(data, max_pixels) if upright else 1
        reduction = reduce(*(size[::-1] if orientation in SIDEWAYS else size))
        least_height, least_width = (-(-side // reduction) for side in size)
        pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=least_height, min_width=least_width)
    except (ValueError, MemoryError):  # of any kind, even mere warnings, for Pillow to judge
        return None
    if orientation in SIDEWAYS:
        size = (size[1], size[0])
    return Still(turn_upright(pixels, orientation) if upright else pixels, size, reduction)


def _read_orientation(data: bytes, max_pixels: int) -> int:
    with opened_picture(data, max_pixels) as image:
        return orientation_of(image)
