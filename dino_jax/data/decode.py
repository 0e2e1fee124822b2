"""Turns encoded images into RGB pixels, with the result of torchvision's ImageFolder."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from dino_jax.config.range import MAX_PIXELS
from dino_jax.foreign.files import MAX_IMAGE_BYTES, read_bytes
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
      pixels: [h, w, 3] uint8 RGB.
      size: (height, width) of the image itself, in pixels.
      reduction: r, pixels of the image per pixel here along each axis: h is height / r, rounded up.
    """

    pixels: np.ndarray
    size: tuple[int, int]
    reduction: int = 1


def decode_still(data: bytes, max_pixels: int, reduce: Callable[[int, int], int]) -> Still:
    """Decodes one image file as `decode_image` does, but large JPEGs reduced, and so faster.

    The decoder averages: it leaves the high frequencies of each block of 8 x 8 pixels out.

    Args:
      data: the bytes of an image file.
      max_pixels: largest height * width of the image itself.
      reduce: gives one of `REDUCTIONS`, or 1, for the height and width of an image.

    Raises:
      UnreadableImageError, MemoryError: as `decode_image`.
    """
    if data.startswith(_JPEG):
        require_few_scans(data)
        still = _decode_plain_jpeg(data, max_pixels, reduce)
        if still is not None:
            return still
    pixels = decode_image(data, max_pixels)
    return Still(pixels, pixels.shape[:2])


def decode_image(data: bytes, max_pixels: int) -> np.ndarray:
    """Decodes one image file to RGB as `PIL.Image.open(file).convert("RGB")` does.

    EXIF orientation is ignored, alpha is dropped and of several frames the first is taken, as in
    torchvision's `default_loader`, which the official DINO code uses.

    Args:
      data: the bytes of an image file in one of `pictures.FORMATS`.
      max_pixels: largest height * width that is decoded; checked on the header, before any
        memory is taken for pixels. Pillow's own limit, 2 * `PIL.Image.MAX_IMAGE_PIXELS` (about
        179 million), holds as well.

    Returns:
      [H, W, 3] uint8, in its own memory.

    Raises:
      UnreadableImageError: if the bytes are not a complete image, it is over the limit, or its
        decoder fails in any other way.
      MemoryError: if there is no memory for a small image either.
    """
    if not data:
        raise UnreadableImageError("the file is empty (0 bytes)")
    if data.startswith(_JPEG):
        require_few_scans(data)
        still = _decode_plain_jpeg(data, max_pixels)
        if still is not None:
            return still.pixels
    return _decode_with_pillow(data, max_pixels)


def read_image_file(path: str | os.PathLike, max_pixels: int) -> np.ndarray:
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
    return decode_image(data, max_pixels)


def _decode_plain_jpeg(
    data: bytes, max_pixels: int, reduce: Callable[[int, int], int] = lambda height, width: 1
) -> Still | None:
    """None for images that Pillow may treat differently: CMYK, damaged and oversized files."""
    limit = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
        if int(height) * int(width) <= limit and colors in _PLAIN_COLORS:
            size = (int(height), int(width))
            reduction = reduce(*size)
            least_height, least_width = (-(-side // reduction) for side in size)
            pixels = simplejpeg.decode_jpeg(
                data, "RGB", min_height=least_height, min_width=least_width
            )
            return Still(pixels, size, reduction)
    except (ValueError, MemoryError):  # of any kind, even mere warnings, for Pillow to judge
        pass
    return None


def _decode_with_pillow(data: bytes, max_pixels: int) -> np.ndarray:
    with opened_picture(data, max_pixels) as image:
        return np.array(image.convert("RGB"))
