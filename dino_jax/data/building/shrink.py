"""Makes large photographs smaller, for `dino-jax build --max-side`."""

import io

import numpy as np
from PIL import ExifTags, Image

from dino_jax.data.decode import decode_image
from dino_jax.data.sources import ImageSource
from dino_jax.data.sources.base import Record
from dino_jax.data.sources.record_format import still_image
from dino_jax.foreign.numbers import orientation_of
from dino_jax.foreign.pictures import opened_picture

QUALITY = 95  # of JPEG, with whole chroma
_JPEG, _NPY = b"\xff\xd8", b"\x93NUMPY"


class ShrunkSource:
    """A source whose images have at most `max_side` pixels along either side.

    Images that are small enough stay as they are, byte for byte. Larger ones are decoded, reduced
    with a Lanczos filter, and encoded again: JPEG files as JPEG of quality 95 without chroma
    subsampling, all others as PNG. The orientation of EXIF is kept.

    Attributes:
      original: the source, of 8-bit RGB images.
      max_side: pixels.
      max_pixels: larger images are unreadable.
    """

    def __init__(self, original: ImageSource, max_side: int, max_pixels: int):
        self.original, self.max_side, self.max_pixels = original, max_side, max_pixels
        self.class_names = original.class_names

    def __len__(self) -> int:
        return len(self.original)

    def __getitem__(self, index: int) -> Record:
        """Reads a record; raises OSError or UnreadableImageError if it can't be read."""
        record = self.original[index]
        return {**record, "image": shrink(still_image(record), self.max_side, self.max_pixels)}

    def name(self, index: int) -> str:
        """As the source says."""
        return self.original.name(index)


def shrink(image: bytes | np.ndarray, max_side: int, max_pixels: int) -> bytes | np.ndarray:
    """An image as it is, or encoded again with at most `max_side` pixels along either side.

    Args:
      image: an encoded file, or [H, W, 3] uint8.
      max_side: pixels.
      max_pixels: larger images are unreadable.

    Raises:
      UnreadableImageError: if it can't be decoded.
    """
    pixels = image if isinstance(image, np.ndarray) else decode_image(image, max_pixels)
    height, width = pixels.shape[:2]
    scale = max_side / max(height, width)
    if scale >= 1:
        return image
    smaller = Image.fromarray(pixels).resize(
        (max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.LANCZOS
    )
    buffer, exif = io.BytesIO(), Image.Exif()
    if isinstance(image, bytes) and not image.startswith(_NPY):
        with opened_picture(image, max_pixels) as opened:
            exif[ExifTags.Base.Orientation] = orientation_of(opened)
    if isinstance(image, bytes) and image.startswith(_JPEG):
        smaller.save(buffer, "JPEG", quality=QUALITY, subsampling=0, exif=exif)
    else:
        smaller.save(buffer, "PNG", exif=exif)
    return buffer.getvalue()
