"""Images from a command line, at a size that a backbone can take."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from dino_jax.data.decode import MAX_PIXELS, UnreadableImageError, read_image_file
from dino_jax.data.decoding import Decoding
from dino_jax.data.resampling import resize_pixels
from dino_jax.data.sources import FolderSource
from dino_jax.foreign.names import one_line, printable


class Named(NamedTuple):
    """An image [H, W, C] uint8 and the name of its file."""

    name: str
    pixels: np.ndarray


def read_images(paths: Sequence[str], decoding: Decoding) -> tuple[list[Named], list[str]]:
    """Reads images as they are.

    Args:
      paths: files, and folders whose images are all taken, sorted.
      decoding: how they become pixels.

    Returns:
      The images, and a line for each file that cannot be read.

    Raises:
      OSError: if a path does not exist.
      ValueError: if there are no images, or none can be read.
    """
    lost: list[str] = []
    images = list(stream_images(paths, decoding, lost))
    if not images:
        more = f", and {len(lost) - 1:,} more" if len(lost) > 1 else ""
        raise ValueError(f"no image can be read: {lost[0]}{more}")
    return images, lost


def stream_images(paths: Sequence[str], decoding: Decoding, lost: list[str]) -> Iterator[Named]:
    """Reads them one by one.

    Args:
      paths: as `read_images`.
      decoding: as `read_images`.
      lost: receives a line for each file that cannot be read.
    """
    for file in _list_files(paths):
        try:
            yield Named(printable(file.stem), read_image_file(file, MAX_PIXELS, decoding))
        except (OSError, UnreadableImageError) as error:
            lost.append(f"{printable(str(file))}: {one_line(str(error))}")


def fit_to_patches(image: np.ndarray, size: int, patch_size: int) -> np.ndarray:
    """Short side to S, bicubic; then both sides cut to multiples of a patch, around the center.

    Args:
      image: [H, W, C] uint8.
      size: S, pixels; 0 leaves the size as it is.
      patch_size: patch size of the backbone.

    Raises:
      ValueError: if less than a patch is left.
    """
    height, width = image.shape[:2]
    if size:
        scale = size / min(height, width)
        height, width = round(height * scale), round(width * scale)
        image = resize_pixels(image, (height, width), Image.Resampling.BICUBIC)
    rows, columns = height // patch_size * patch_size, width // patch_size * patch_size
    if min(rows, columns) < patch_size:
        raise ValueError(
            f"an image of {height} x {width} pixels is smaller than a patch of {patch_size}; "
            f"give a larger --size"
        )
    top, left = (height - rows) // 2, (width - columns) // 2
    return np.ascontiguousarray(image[top : top + rows, left : left + columns])


def bound_size(shape: tuple[int, int], size: int, patch_size: int, most_patches: int) -> int:
    """The short side at which an image has at most so many patches.

    Args:
      shape: (height, width) of the image.
      size: short side that is wanted, pixels; 0: as it is.
      patch_size: patch size of the backbone.
      most_patches: the bound.

    Returns:
      `size`, or a smaller short side.

    Raises:
      ValueError: if the image is so elongated that less than a patch would be left.
    """
    short, long = min(shape), max(shape)
    wanted = size or short
    patches = (wanted / patch_size) ** 2 * (long / short)
    if patches <= most_patches:
        return size
    smaller = int(wanted * (most_patches / patches) ** 0.5)
    if smaller < patch_size:
        raise ValueError(
            f"an image of {shape[0]} x {shape[1]} pixels is too elongated: with one patch of "
            f"{patch_size} pixels on the short side it has more than {most_patches:,} of them"
        )
    return smaller


def _list_files(paths: Sequence[str]) -> list[Path]:
    files = []
    for path in paths:
        if Path(path).is_dir():
            source = FolderSource(path)
            files += [Path(source.path(index)) for index in range(len(source))]
        elif Path(path).exists():
            files.append(Path(path))
        else:
            raise FileNotFoundError(f"there is no image or folder {path!r}")
    return files
