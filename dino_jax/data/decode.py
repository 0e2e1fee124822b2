"""Turns encoded images into RGB pixels, exactly as torchvision's ImageFolder does."""

from io import BytesIO

import numpy as np
from PIL import Image


class UnreadableImageError(ValueError):
    """An image that can't be decoded: truncated, corrupt, empty, no image at all, or too large."""


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
      [H, W, 3] uint8, in memory of its own.

    Raises:
      UnreadableImageError: if the bytes are no complete image or it is over the limit.
    """
    if not data:
        raise UnreadableImageError("the file is empty (0 bytes)")
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
    # DecompressionBombError and others on garbage: whatever it is, these bytes are no image.
    except Exception as error:
        raise UnreadableImageError(f"{type(error).__name__}: {error}") from error
