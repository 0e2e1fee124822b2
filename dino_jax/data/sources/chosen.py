"""The images of another source that a list of `dino-jax curate` has kept, as often as it says."""

import csv
import io
import os

import numpy as np

from dino_jax.data.sources.base import Contents, ImageSource, PackedNames, Record
from dino_jax.foreign.files import read_text
from dino_jax.foreign.names import printable

COLUMNS = ("index", "name", "times")
MAX_LIST_BYTES = 1 << 34
MOST_TIMES = 1_000_000  # of one image in an epoch


class ChosenSource:
    """Some images of a source, in its order, each one or more times in an epoch.

    The list names every image, and what is read must have that name: a list that was made of other
    images is an error, not another data set.
    """

    def __init__(self, path: str | os.PathLike, source: ImageSource):
        """Reads the list; the names are compared when images are read.

        Args:
          path: CSV with the columns index (in the source), name and times.
          source: the images.

        Raises:
          OSError: if the list can't be read.
          ValueError: if it is something else, or names images beyond the end of the source.
        """
        self._path, self._source = os.fspath(path), source
        self.class_names = source.class_names
        indices, times, names = _read(self._path, len(source))
        self._names = PackedNames(names)
        self._places = np.repeat(np.arange(len(indices)), times)
        self._indices, self._times = indices, times

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Record:
        place = int(self._places[index])
        record = self._source[int(self._indices[place])]
        if printable(record["name"]) != self._names[place]:
            raise OSError(
                f"{self._path} was made of other images: image {self._indices[place]} is "
                f"{printable(record['name'])!r}, the list has {self._names[place]!r}"
            )
        return record

    def name(self, index: int) -> str:
        """As the source says."""
        return self._source.name(int(self._indices[self._places[index]]))

    def contents(self) -> Contents:
        """The list: which images, and how often."""
        return Contents(len(self), self._names, [self._indices.tolist(), self._times.tolist()])


def _read(path: str, size: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    lines = csv.reader(io.StringIO(read_text(path, MAX_LIST_BYTES), newline=""), strict=True)
    indices, times, names = [], [], []
    try:
        head = next(lines, [])
        if tuple(head) != COLUMNS:
            raise ValueError(f"its columns are {head[:9]}; expected {list(COLUMNS)}")
        for number, line in enumerate(lines, start=2):
            index, name, count = line if len(line) == 3 else ("", "", "")
            if not (index.isdecimal() and count.isdecimal() and len(index + count) < 25):
                raise ValueError(f"line {number} is {line[:4]}; expected INDEX,NAME,TIMES")
            if int(index) >= size:
                raise ValueError(f"line {number} names image {index}; the source has {size:,}")
            if not 1 <= int(count) <= MOST_TIMES:
                raise ValueError(f"line {number} takes an image {count} times; 1 to {MOST_TIMES:,}")
            indices.append(int(index))
            times.append(int(count))
            names.append(name)
    except (ValueError, csv.Error) as error:
        raise ValueError(
            f"{path!r} is no list of images: {error}; pass a kept.csv of dino-jax curate"
        ) from error
    if not indices:
        raise ValueError(f"{path!r} names no images")
    return np.array(indices, np.int64), np.array(times, np.int64), names
