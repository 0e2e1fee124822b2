"""Turns encoded images into RGB pixels, with the result of torchvision's ImageFolder."""

from io import BytesIO

import numpy as np
import simplejpeg
from PIL import Image

MAX_PIXELS = 178_956_970  # Pillow's own limit; the default of config.max_pixels
_JPEG = b"\xff\xd8\xff"
_PLAIN_COLORS = ("YCbCr", "Gray", "RGB")


class UnreadableImageError(ValueError):
    """An image that can't be decoded: truncated, corrupt, empty, not an image, or too large."""


def decode_image(data: bytes, max_pixels: int) -> np.ndarray:
    """Decodes one image file to RGB as `PIL.Image.open(file).convert("RGB")` does.

    EXIF orientation is ignored, alpha is dropped and of several frames the first is taken, as in
    torchvision's `default_loader`, which the official DINO code uses.

    Args:
      data: the bytes of an image file in any format that Pillow reads.
      max_pixels: largest height * width that is decoded; checked on the header, before any
        memory is taken for pixels. Pillow's own limit, 2 * `PIL.Image.MAX_IMAGE_PIXELS` (about
        179 million), holds as well.

    Returns:
      [H, W, 3] uint8, in its own memory.

    Raises:
      UnreadableImageError: if the bytes are not a complete image or it is over the limit.
    """
    if not data:
        raise UnreadableImageError("the file is empty (0 bytes)")
    if data.startswith(_JPEG):
        image = _decode_plain_jpeg(data, max_pixels)
        if image is not None:
            return image
    return _decode_with_pillow(data, max_pixels)


def _decode_plain_jpeg(data: bytes, max_pixels: int) -> np.ndarray | None:
    """None for images that Pillow may treat differently: CMYK, damaged and oversized files."""
    limit = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
        if int(height) * int(width) <= limit and colors in _PLAIN_COLORS:
            return simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:  # of any kind, even mere warnings, for Pillow to judge
        pass
    return None


def _decode_with_pillow(data: bytes, max_pixels: int) -> np.ndarray:
    try:
        with Image.open(BytesIO(data)) as image:
            if image.width * image.height > max_pixels:
                raise UnreadableImageError(
                    f"{image.width} x {image.height} pixels are more than max_pixels={max_pixels}"
                )
            return np.array(image.convert("RGB"))
    except (UnreadableImageError, MemoryError):
        raise
    # Pillow's format plugins raise OSError, SyntaxError, ValueError, struct.error,
    # DecompressionBombError and others on garbage: in each case, these bytes are not an image.
    except Exception as error:
        raise UnreadableImageError(f"{type(error).__name__}: {error}") from error
