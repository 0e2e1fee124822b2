"""Inspects every image of a source once: readability, copies, mean and std."""

import hashlib
import io
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dino_jax.data.decode import UnreadableImageError, decode_image
from dino_jax.data.decoding import RGB, Decoding, fit_channels
from dino_jax.data.levels import whole_numbers
from dino_jax.data.sources import ImageSource
from dino_jax.data.sources.record_format import encode_image, still_image
from dino_jax.foreign.files import require_memory
from dino_jax.foreign.names import one_line
from dino_jax.foreign.numbers import numbers_of_array, read_numbers

DIGEST_BYTES = 32  # SHA-256
_ADDRESS = re.compile(" at 0x[0-9a-f]+")  # in Pillow's messages; differs from run to run
_LEVELS = np.arange(256) / 255.0
NO_LIMITS = (math.inf, -math.inf)  # of no numbers


@dataclass(frozen=True)
class Inspection:
    """Findings about one image.

    Attributes:
      digest: SHA-256 of the encoded file; zeros if it can't be read.
      size: bytes of the encoded file; 0 if it can't be read.
      moments: [2, C] float64 mean and mean square of the channels, in [0, 1] or, if the range is
        measured, of the stored numbers; None if not requested or if the image can't be read.
      error: why it can't be used, "" if it can.
      limits: the smallest and the largest stored number, if the range is measured.
    """

    digest: bytes
    size: int
    moments: np.ndarray | None
    error: str
    limits: tuple[float, float] = NO_LIMITS


@dataclass(frozen=True)
class Scan:
    """The inspections of consecutive images.

    Attributes:
      digests: [images, 32] uint8.
      readable: [images] bool.
      size: bytes of all readable images together.
      moments: [images, 2, C] float64, see `Inspection`, zeros for unreadable images; [0, 2, C] if
        not requested.
      errors: [unreadable] str, in the order of the images.
      limits: the smallest and the largest stored number of all images, if the range is measured.
    """

    digests: np.ndarray
    readable: np.ndarray
    size: int
    moments: np.ndarray
    errors: tuple[str, ...]
    limits: tuple[float, float] = NO_LIMITS


def inspect_image(
    source: ImageSource, index: int, max_pixels: int, moments: bool, measure_range: bool = False
) -> Inspection:
    """Reads and decodes one image.

    Args:
      source: the images.
      index: index of the image.
      max_pixels: larger images count as unreadable.
      moments: whether to compute mean and mean square.
      measure_range: whether to read the stored numbers, of whatever type, and their limits.
    """
    try:
        record = source[index]
        image, decoding = still_image(record), record.get("decoding", RGB)
        data = encode_image(image)
        read = _read_stored if measure_range else _read_levels
        pixels = read(image, max_pixels, decoding)
    except MemoryError:
        require_memory()
        return Inspection(bytes(DIGEST_BYTES), 0, None, "too large for the memory")
    except (OSError, UnreadableImageError) as error:
        reason = one_line(_ADDRESS.sub("", str(error) or repr(error)))
        return Inspection(bytes(DIGEST_BYTES), 0, None, reason)
    return Inspection(
        digest=hashlib.sha256(data).digest(),
        size=len(data),
        moments=_channel_moments(pixels, measure_range) if moments else None,
        error="",
        limits=(float(pixels.min()), float(pixels.max())) if measure_range else NO_LIMITS,
    )


def scan_images(
    source: ImageSource,
    indices: range,
    max_pixels: int,
    moments: bool,
    on_image: Callable[[], None],
    channels: int = 3,
    measure_range: bool = False,
) -> Scan:
    """Inspects consecutive images of C channels; calls `on_image` after each."""
    found = []
    for index in indices:
        found.append(inspect_image(source, index, max_pixels, moments, measure_range))
        on_image()
    empty = np.zeros((2, channels))
    return Scan(
        digests=np.frombuffer(b"".join(one.digest for one in found), np.uint8).reshape(-1, 32),
        readable=np.array([not one.error for one in found], bool),
        size=sum(one.size for one in found),
        moments=np.array(
            [empty if one.moments is None else one.moments for one in found if moments]
        ).reshape(-1, 2, channels),
        errors=tuple(one.error for one in found if one.error),
        limits=_widest([one.limits for one in found]),
    )


def join_scans(scans: list[Scan]) -> Scan:
    """One scan of all images from the scans of its parts, in order."""
    return Scan(
        digests=np.concatenate([scan.digests for scan in scans]),
        readable=np.concatenate([scan.readable for scan in scans]),
        size=sum(scan.size for scan in scans),
        moments=np.concatenate([scan.moments for scan in scans]),
        errors=tuple(error for scan in scans for error in scan.errors),
        limits=_widest([scan.limits for scan in scans]),
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
        limits=np.array(scan.limits),
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
            limits=tuple(arrays["limits"].tolist()),
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


def mean_and_std(
    moments: np.ndarray, limits: tuple[float, float] = (0.0, 1.0)
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Statistics of the channels in [0, 1]; every image counts equally, regardless of its size.

    Args:
      moments: [images, 2, C] mean and mean square of each image.
      limits: numbers of the moments that are 0 and 1.

    Returns:
      Mean and standard deviation of the channels, rounded to 6 digits.
    """
    low, high = limits
    mean, square = moments.mean(axis=0, dtype=np.float64)
    std = np.sqrt(np.maximum(square - mean**2, 0.0)) / ((high - low) or 1.0)
    mean = (mean - low) / ((high - low) or 1.0)
    return tuple(np.round(mean, 6).tolist()), tuple(np.round(std, 6).tolist())


def _read_levels(image: bytes | np.ndarray, max_pixels: int, decoding: Decoding) -> np.ndarray:
    if isinstance(image, np.ndarray):
        return decoding(numbers_of_array(image))
    return decode_image(image, max_pixels, decoding)


def _read_stored(image: bytes | np.ndarray, max_pixels: int, decoding: Decoding) -> np.ndarray:
    """The numbers of an image, of any type, with the channels that are expected."""
    if isinstance(image, np.ndarray):
        numbers = numbers_of_array(image)
    else:
        numbers = read_numbers(image, max_pixels, decoding.channels)
    return fit_channels(whole_numbers(numbers), decoding.channels, numbers.alpha)


def _widest(limits: list[tuple[float, float]]) -> tuple[float, float]:
    """Limits that hold all limits."""
    lows, highs = zip(NO_LIMITS, *limits, strict=True)
    return min(lows), max(highs)


def _channel_moments(pixels: np.ndarray, are_stored: bool) -> np.ndarray:
    """[2, C] mean and mean square of [H, W, C]: of levels in [0, 1], or of stored numbers."""
    if are_stored:
        values = pixels.reshape(-1, pixels.shape[2]).astype(np.float64)
        return np.stack([values.mean(axis=0), (values**2).mean(axis=0)])
    planes = np.moveaxis(pixels, 2, 0).reshape(pixels.shape[2], -1)
    counts = np.stack([np.bincount(plane, minlength=256) for plane in planes])
    weights = counts / planes.shape[1]
    return np.stack([weights @ _LEVELS, weights @ _LEVELS**2]).astype(np.float32)
