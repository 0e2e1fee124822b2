"""Images with a depth for every pixel, in the layout of NYU Depth V2 that BTS and others use.

FOLDER/nyu_train.txt and FOLDER/nyu_test.txt: a line per image with the image, its depth and the
focal length, which is not needed; paths are relative to FOLDER, depths 16-bit PNG in millimeters.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from dino_jax.evaluation.image_files import read_pixels, read_values
from dino_jax.foreign.files import read_text

MILLIMETRES = 1000.0  # per metre
NO_DEPTH = "None"  # in a list, for an image without depth (KITTI's lists)


class DepthFiles(NamedTuple):
    """N images and their depths."""

    images: list[str]
    depths: list[str]

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixels [H, W, 3] uint8 and depth [H, W] float32 in meters, 0 where unknown.

        Raises:
          UnreadableImageError: if one of the files is not an image.
          ValueError: if their sizes differ.
        """
        pixels, depth = read_pixels(self.images[index]), read_depth(self.depths[index])
        if depth.shape != pixels.shape[:2]:
            raise ValueError(
                f"{self.depths[index]} has {depth.shape[0]} x {depth.shape[1]} pixels, its image "
                f"{pixels.shape[0]} x {pixels.shape[1]}"
            )
        return pixels, depth


def open_depth(folder: str, part: str) -> DepthFiles:
    """Reads a list of images.

    Args:
      folder: local or gs://.
      part: "train" or "test".

    Raises:
      OSError: if the list or one of its files is missing.
      ValueError: if the list is empty or a line has no depth.
    """
    root = epath.Path(folder).expanduser()
    listing = root / f"nyu_{part}.txt"
    if not listing.exists():
        raise FileNotFoundError(
            f"{listing} does not exist; --data=FOLDER is the folder of NYU Depth V2 with "
            "nyu_train.txt and nyu_test.txt, whose lines are IMAGE DEPTH FOCAL"
        )
    images, depths = [], []
    for number, line in enumerate(read_text(listing).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if len(words) < 2 or words[1] == NO_DEPTH:
            raise ValueError(f"{listing}, line {number}: expected IMAGE DEPTH FOCAL, got {line!r}")
        image, depth = (str(root / word.lstrip("/")) for word in words[:2])
        images.append(image)
        depths.append(depth)
    if not images:
        raise ValueError(f"{listing} names no images")
    _check_files([*images, *depths])
    return DepthFiles(images, depths)


def read_depth(path: str) -> np.ndarray:
    """[H, W] float32 meters of a 16-bit PNG in millimeters.

    Raises:
      OSError: if it does not exist.
      UnreadableImageError: if it is not an image.
      ValueError: if it is an image of another kind.
    """
    mode, values = read_values(path)
    if not mode.startswith("I"):
        raise ValueError(
            f"{path} has pixels of mode {mode}; a depth is a 16-bit gray PNG in millimeters"
        )
    return values.astype(np.float32) / MILLIMETRES


def _check_files(paths: Sequence[str]) -> None:
    """One listing for each folder, which is fast in an object store too."""
    folders = {str(epath.Path(path).parent) for path in paths}
    there = {
        str(path)
        for folder in folders
        if epath.Path(folder).is_dir()
        for path in epath.Path(folder).iterdir()
    }
    missing = sorted(set(paths) - there)
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(set(paths))} files are missing: {missing[:5]}"
        )
