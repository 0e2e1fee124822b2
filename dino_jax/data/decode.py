"""Turns encoded images into RGB pixels, with the result of torchvision's ImageFolder."""

import os
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

from dino_jax.config.range import MAX_PIXELS
from dino_jax.foreign.files import MAX_IMAGE_BYTES, read_bytes
from dino_jax.foreign.pictures import UnreadableImageError, opened_picture, require_few_scans

__all__ = ["MAX_PIXELS", "UnreadableImageError", "decode_image", "read_image_file"]

_JPEG = b"\xff\xd8\xff"
_PLAIN_COLORS = ("YCbCr", "Gray", "RGB")


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
        image = _decode_plain_jpeg(data, max_pixels)
        if image is not None:
            return image
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


def _decode_plain_jpeg(data: bytes, max_pixels: int) -> np.ndarray | None:
    """None for images that Pillow may treat differently: CMYK, damaged and oversized files."""
    limit = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
        if int(height) * int(width) <= limit and colors in _PLAIN_COLORS:
            return simplejpeg.decode_jpeg(data, "RGB")
    except (ValueError, MemoryError):  # of any kind, even mere warnings, for Pillow to judge
        pass
    return None


def _decode_with_pillow(data: bytes, max_pixels: int) -> np.ndarray:
    with opened_picture(data, max_pixels) as image:
        return np.array(image.convert("RGB"))
