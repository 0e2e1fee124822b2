"""The files behind an index: which there are, whether they have changed, and their pixels."""

import hashlib
import os
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dino_jax.config.range import MAX_PIXELS
from dino_jax.data.decode import UnreadableImageError, read_image_file
from dino_jax.data.decoding import Decoding
from dino_jax.data.sources import FolderSource
from dino_jax.foreign.files import MAX_IMAGE_BYTES, read_bytes
from dino_jax.foreign.names import printable

UPRIGHT = Decoding(orientation="apply")  # of photos, in the index and in queries alike
THREADS = min(16, os.cpu_count() or 1)  # that read files


class PhotoFile(NamedTuple):
    """A file that is there.

    Attributes:
      place: its index in the source.
      name: printable name inside its folder.
      path: as the system takes it.
      size: in bytes.
      mtime_ns: time of its last change in nanoseconds.
    """

    place: int
    name: str
    path: str
    size: int
    mtime_ns: int


def list_photos(source: FolderSource, folder: str) -> list[PhotoFile]:
    """All files of a folder that can be looked at."""
    found = []
    for place in range(len(source)):
        path = source.path(place)
        try:
            status = os.stat(path)  # noqa: PTH116, a million of them
        except OSError:  # a broken link, or gone since it was listed
            continue
        name = printable(path.removeprefix(folder.rstrip("/") + "/"))
        found.append(PhotoFile(place, name, path, status.st_size, status.st_mtime_ns))
    return found


def digest_files(paths: Iterable[str]) -> list[str]:
    """SHA-256 of the bytes of files, in hexadecimal digits; "" for one that cannot be read."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(_digest, paths))


def _digest(path: str) -> str:
    try:
        return hashlib.sha256(read_bytes(path, MAX_IMAGE_BYTES)).hexdigest()
    except OSError:
        return ""


class Photos:
    """Pixels of the photographs of an index by their names; nothing outside of the folder."""

    def __init__(self, folder: str):
        """Reads nothing yet.

        Args:
          folder: of the photographs; "" if there is none.
        """
        self._folder = folder
        self._odd: dict[str, str] | None = None  # paths of names that are not their own

    def path(self, name: str) -> Path:
        """The file of a printable name.

        Raises:
          UnreadableImageError: if there is none inside the folder.
        """
        if not self._folder:
            raise UnreadableImageError("the index does not know the folder of its photos")
        root = Path(self._folder).expanduser()
        path = root / name
        if "\\" in name:  # an escape of `printable`
            path = Path(self._paths().get(name, path))
        real = Path(os.path.realpath(path))
        if not real.is_relative_to(os.path.realpath(root)) or not real.is_file():
            raise UnreadableImageError(f"{name} is not in {self._folder}; pass --photos=FOLDER")
        return real

    def read(self, name: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """[H, W, 3] uint8.

        Raises:
          UnreadableImageError: if it is not there, or no image.
        """
        try:
            return read_image_file(self.path(name), max_pixels, UPRIGHT)
        except OSError as error:
            raise UnreadableImageError(f"{name}: {error}") from error

    def _paths(self) -> dict[str, str]:
        if self._odd is None:
            files = list_photos(FolderSource(self._folder), self._folder)
            self._odd = {file.name: file.path for file in files if "\\" in file.name}
        return self._odd


def views_of(pixels: np.ndarray, kinds: Collection[str]) -> list[np.ndarray]:
    """A photograph, and how it looks in a mirror or turned by quarters.

    Args:
      pixels: [H, W, C].
      kinds: of `options.VIEWS`; with both, each turned one is mirrored, too.

    Returns:
      1, 2, 4 or 8 photographs, the given one first.
    """
    turned = [np.rot90(pixels, turn) for turn in range(4 if "turned" in kinds else 1)]
    mirrored = [one[:, ::-1] for one in turned] if "mirrored" in kinds else []
    return [np.ascontiguousarray(one) for one in (*turned, *mirrored)]


def cut(pixels: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """The part of a photograph, [H, W, 3].

    Args:
      pixels: of the whole.
      box: left, top, right and bottom in its pixels; right and bottom are outside.

    Raises:
      ValueError: if the box is empty, or not inside.
    """
    left, top, right, bottom = box
    height, width = pixels.shape[:2]
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(
            f"the box {left},{top},{right},{bottom} is not inside of the photo, which is {width} "
            f"pixels wide and {height} high; write X0,Y0,X1,Y1 with X0 < X1 and Y0 < Y1"
        )
    return np.ascontiguousarray(pixels[top:bottom, left:right])
