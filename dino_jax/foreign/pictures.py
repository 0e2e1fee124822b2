"""Pictures that others made: raster formats by name, and one error for whatever goes wrong."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

import numpy as np
from PIL import Image, TiffImagePlugin, WebPImagePlugin  # noqa: F401, they register formats

from dino_jax.foreign.files import require_memory

# Pillow's names of what is opened: pixels only. Others run programs (EPS runs Ghostscript), are
# documents (PDF, WMF) or containers of a science (FITS, HDF5). JPEG includes MPO.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_SCANS = 100  # of a JPEG; progressive ones have about 10, and each costs time for all pixels
_JPEG, _START_OF_SCAN = b"\xff\xd8\xff", 0xDAFF  # FF DA, as a little-endian number


class UnreadableImageError(ValueError):
    """An image that can't be decoded: truncated, corrupt, empty, not an image, or too large."""


@contextmanager
def opened_picture(data: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """Opens an encoded image; its pixels are read by what the block does with it.

    Args:
      data: the bytes of a file in one of `FORMATS`.
      max_pixels: largest height * width; checked on the header, before any memory is taken for
        pixels. Pillow's own limit, 2 * `PIL.Image.MAX_IMAGE_PIXELS`, holds as well.

    Raises:
      UnreadableImageError: for every failure, of the block too.
      MemoryError: if there is no memory for a small image either.
    """
    require_few_scans(data)
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise UnreadableImageError(
                    f"{image.width} x {image.height} pixels are more than max_pixels={max_pixels}"
                )
            yield image
    except UnreadableImageError:
        raise
    except MemoryError as error:  # also of decoders that refuse a size
        require_memory()
        raise UnreadableImageError("its decoder asks for more memory than there is") from error
    # Pillow's format plugins raise OSError, SyntaxError, ValueError, struct.error,
    # DecompressionBombError and others on garbage: in each case, these bytes are not an image.
    except Exception as error:
        raise UnreadableImageError(f"{type(error).__name__}: {error}") from error


def require_few_scans(data: bytes) -> None:
    """Refuses a JPEG that says so little so often that decoding takes minutes.

    In the data of a scan an FF is followed by 00 or a restart, so all scans, and at most a few
    thumbnails' besides, are counted.

    Raises:
      UnreadableImageError: if it has more than `MAX_SCANS` scans.
    """
    if not data.startswith(_JPEG):
        return
    pairs = (np.frombuffer(data, "<u2", (len(data) - start) // 2, start) for start in (0, 1))
    scans = sum(np.count_nonzero(pair == _START_OF_SCAN) for pair in pairs)  # faster than count()
    if scans > MAX_SCANS:
        raise UnreadableImageError(f"a JPEG of {scans:,} scans, more than {MAX_SCANS}")
