"""Inspects every image of a source once: readability, copies, mean and std."""

import hashlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dino_jax.data.decode import UnreadableImageError, decode_image
from dino_jax.data.sources import ImageSource
from dino_jax.data.sources.record_format import encode_image, still_image
from dino_jax.foreign.files import require_memory
from dino_jax.foreign.names import one_line

DIGEST_BYTES = 32  # SHA-256
_ADDRESS = re.compile(" at 0x[0-9a-f]+")  # in Pillow's messages; differs from run to run
_LEVELS = np.arange(256) / 255.0


@dataclass(frozen=True)
class Inspection:
    """Findings about one image.

    Attributes:
      digest: SHA-256 of the encoded file; zeros if it can't be read.
      size: bytes of the encoded file; 0 if it can't be read.
      moments: [2, 3] float32 mean and mean square of the RGB channels in [0, 1]; None if not
        requested or if the image can't be read.
      error: why it can't be used, "" if it can.
    """

    digest: bytes
    size: int
    moments: np.ndarray | None
    error: str


@dataclass(frozen=True)
class Scan:
    """The inspections of consecutive images.

    Attributes:
      digests: [images, 32] uint8.
      readable: [images] bool.
      size: bytes of all readable images together.
      moments: [images, 2, 3] float32, see `Inspection`, zeros for unreadable images; [0, 2, 3] if
        not requested.
      errors: [unreadable] str, in the order of the images.
    """

    digests: np.ndarray
    readable: np.ndarray
    size: int
    moments: np.ndarray
    errors: tuple[str, ...]


def inspect_image(source: ImageSource, index: int, max_pixels: int, moments: bool) -> Inspection:
    """Reads and decodes one image.

    Args:
      source: the images.
      index: index of the image.
      max_pixels: larger images count as unreadable.
      moments: whether to compute mean and mean square.
    """
    try:
        image = still_image(source[index])
        data = encode_image(image)
        pixels = image if isinstance(image, np.ndarray) else decode_image(image, max_pixels)
    except MemoryError:
        require_memory()
        return Inspection(bytes(DIGEST_BYTES), 0, None, "too large for the memory")
    except (OSError, UnreadableImageError) as error:
        reason = one_line(_ADDRESS.sub("", str(error) or repr(error)))
        return Inspection(bytes(DIGEST_BYTES), 0, None, reason)
    return Inspection(
        digest=hashlib.sha256(data).digest(),
        size=len(data),
        moments=_channel_moments(pixels) if moments else None,
        error="",
    )


def scan_images(
    source: ImageSource,
    indices: range,
    max_pixels: int,
    moments: bool,
    on_image: Callable[[], None],
) -> Scan:
    """Inspects consecutive images; calls `on_image` after each."""
    found = []
    for index in indices:
        found.append(inspect_image(source, index, max_pixels, moments))
        on_image()
    empty = np.zeros((2, 3), np.float32)
    return Scan(
        digests=np.frombuffer(b"".join(one.digest for one in found), np.uint8).reshape(-1, 32),
        readable=np.array([not one.error for one in found], bool),
        size=sum(one.size for one in found),
        moments=np.array(
            [empty if one.moments is None else one.moments for one in found if moments], np.float32
        ).reshape(-1, 2, 3),
        errors=tuple(one.error for one in found if one.error),
    )


def join_scans(scans: list[Scan]) -> Scan:
    """One scan of all images from the scans of its parts, in order."""
    return Scan(
        digests=np.concatenate([scan.digests for scan in scans]),
        readable=np.concatenate([scan.readable for scan in scans]),
        size=sum(scan.size for scan in scans),
        moments=np.concatenate([scan.moments for scan in scans]),
        errors=tuple(error for scan in scans for error in scan.errors),
    )


def scan_to_bytes(scan: Scan) -> bytes:
    """A scan as an npz file."""
    buffer = io.BytesIO()
    np.savez(
        buffer,
        digests=scan.digests,
        readable=scan.readable,
        size=np.int64(scan.size),
        moments=scan.moments,
        errors=np.array(scan.errors, np.str_),
    )
    return buffer.getvalue()


def scan_from_bytes(data: bytes) -> Scan:
    """The inverse of `scan_to_bytes`."""
    with np.load(io.BytesIO(data)) as arrays:
        return Scan(
            digests=arrays["digests"],
            readable=arrays["readable"],
            size=int(arrays["size"]),
            moments=arrays["moments"],
            errors=tuple(arrays["errors"].tolist()),
        )


def find_originals(digests: np.ndarray, readable: np.ndarray) -> np.ndarray:
    """For each image the first readable one with the same bytes.

    Args:
      digests: [images, 32] uint8 SHA-256.
      readable: [images] bool.

    Returns:
      [images] int64; an image that is not a copy has its own index, an unreadable one too.
    """
    originals = np.arange(len(digests))
    places = np.flatnonzero(readable)
    words = np.ascontiguousarray(digests[places]).view(np.uint64)
    order = np.lexsort(words.T)  # stable: equal digests stay in the order of their indices
    words, places = words[order], places[order]
    is_first = np.ones(len(places), bool)
    is_first[1:] = (words[1:] != words[:-1]).any(axis=1)
    originals[places] = places[is_first][np.cumsum(is_first) - 1]
    return originals


def mean_and_std(moments: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Statistics of the RGB channels in [0, 1]; every image counts equally, regardless of its size.

    Args:
      moments: [images, 2, 3] mean and mean square of each image.

    Returns:
      Mean and standard deviation of the three channels, rounded to 6 digits.
    """
    mean, square = moments.mean(axis=0, dtype=np.float64)
    std = np.sqrt(np.maximum(square - mean**2, 0.0))
    return tuple(np.round(mean, 6).tolist()), tuple(np.round(std, 6).tolist())


def _channel_moments(pixels: np.ndarray) -> np.ndarray:
    """[H, W, 3] uint8 -> [2, 3] float32 mean and mean square in [0, 1]."""
    counts = np.array(Image.fromarray(pixels).histogram()).reshape(3, 256)
    weights = counts / (pixels.shape[0] * pixels.shape[1])
    return np.stack([weights @ _LEVELS, weights @ _LEVELS**2]).astype(np.float32)
