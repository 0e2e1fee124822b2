"""Pictures that others made: raster formats by name, and one error for whatever goes wrong."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

from PIL import Image, TiffImagePlugin, WebPImagePlugin  # noqa: F401, they register formats

from dino_jax.foreign.files import require_memory
from dino_jax.foreign.quiet_decoders import quiet_decoders

# Pillow's names of what is opened: pixels only. Others run programs (EPS runs Ghostscript), are
# documents (PDF, WMF) or containers of a science (FITS, HDF5). JPEG includes MPO.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# Of a JPEG. Progressive ones have about 10 scans, each of which costs 20 ns for every pixel.
FEW_SCANS, MAX_SCANS = 20, 100  # of any size, and of few pixels
MAX_SCANNED_PIXELS = 1 << 30  # of all scans together, if they are more than few
MAX_SEGMENTS = 20_000  # as full as can be, they fill more than any file that is read
_JPEG, _START, _END, _SCAN = b"\xff\xd8\xff", 0xD8, 0xD9, 0xDA
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # ITU-T T.81, table B.1
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")


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
    quiet_decoders()
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise UnreadableImageError(
                    f"{image.width} x {image.height} pixels are more than max_pixels={max_pixels}"
                )
            yield image
    except UnreadableImageError:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(
            f"{error} That is Pillow's own bound, max_pixels cannot raise it: cut the image into "
            "tiles, or reduce it"
        ) from error
    except MemoryError as error:  # also of decoders that refuse a size
        require_memory()
        raise UnreadableImageError("its decoder asks for more memory than there is") from error
    # Pillow's format plugins raise OSError, SyntaxError, ValueError, struct.error,
    # DecompressionBombError and others on garbage: in each case, these bytes are not an image.
    except Exception as error:
        raise UnreadableImageError(f"{type(error).__name__}: {error}") from error


def require_few_scans(data: bytes) -> None:
    """Refuses a JPEG that says so little so often that decoding takes minutes.

    Only the image itself counts: neither thumbnails in its segments nor what lies behind its end,
    such as the film of a motion photo.

    Raises:
      UnreadableImageError: if it has more scans than an image of its size may have.
    """
    if not data.startswith(_JPEG):
        return
    scans = pixels = 0
    for segments, (marker, place) in enumerate(_segments(data)):
        if marker in _FRAMES:
            height, width = data[place + 3 : place + 5], data[place + 5 : place + 7]
            pixels = int.from_bytes(height, "big") * int.from_bytes(width, "big")
        scans += marker == _SCAN
        if segments == MAX_SEGMENTS:
            raise UnreadableImageError(f"a JPEG of more than {MAX_SEGMENTS:,} segments")
        most = MAX_SCANS if pixels * scans <= MAX_SCANNED_PIXELS else FEW_SCANS
        if scans > most:
            raise UnreadableImageError(f"a JPEG of {pixels:,} pixels and more than {most} scans")


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """The markers of a JPEG up to its end, and where their segments' lengths are, as libjpeg reads.

    In the data of a scan an FF is followed by 00 or a restart, which is no marker here.
    """
    place = len(b"\xff\xd8")
    while (found := _MARKER.search(data, place)) and (marker := data[found.end() - 1]) != _END:
        place = found.end()
        yield marker, place
        if marker != _START:
            place += max(2, int.from_bytes(data[place : place + 2], "big"))
