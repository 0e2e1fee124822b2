"""Files with the features of all patches of some images each, which NumPy alone can read.

patches-00000-of-00002.npy    [n, D] float16 or float32: the patches of all images, row by row
images-00000-of-00002.jsonl   one line per image: {"name": "cat/1.jpg", "label": "cat",
                              "size": [3000, 4000], "grid": [214, 286], "first": 0}

`size` is (height, width) of the image file in pixels, `grid` the patches (rows, columns) into which
it was resized, `first` the row of its first patch:

    rows = np.load("patches-00000-of-00002.npy", mmap_mode="r")
    map = rows[first : first + grid[0] * grid[1]].reshape(*grid, -1)

Names and unreadable images as in `shards`. The file of the patches is written last: a shard is
complete, or will be made again.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from etils import epath

from dino_jax.data.building.output_folder import write_text
from dino_jax.workdir.paths import written_whole

HEADER_BYTES = 128


class DenseRow(NamedTuple):
    """One image.

    Attributes:
      name: printable name inside the source.
      label: name of its class, None for none.
      size: (height, width) of the file in pixels.
      features: [h, w, D] float32, None if the image is unreadable.
      reason: then, its name and why.
    """

    name: str
    label: str | None
    size: tuple[int, int]
    features: np.ndarray | None
    reason: str = ""


class DenseShards:
    """The shards of one folder.

    Attributes:
      count: number of shards when finished.
    """

    def __init__(self, out: str, count: int, dtype: str):
        """Describes `count` shards in the folder `out`, local or gs://."""
        self._out, self.count, self._dtype = out, count, np.dtype(dtype)

    def is_written(self, shard: int) -> bool:
        return epath.Path(self._path("patches", shard, "npy")).exists()

    def write(self, shard: int, rows: Iterable[DenseRow]) -> None:
        """Writes all files of a shard, image by image: none is kept in memory.

        Raises:
          ValueError: if a feature is too large for float16.
        """
        lines, unreadable, first, width = [], [], 0, 0
        with written_whole(self._path("patches", shard, "npy")) as path:
            with Path(path).open("wb") as file:
                file.write(bytes(HEADER_BYTES))
                for row in rows:
                    if row.features is None:
                        unreadable.append(row.name)
                        continue
                    grid, width = row.features.shape[:2], row.features.shape[2]
                    file.write(self._cast(row.features, row.name).tobytes())
                    line = {"name": row.name, "label": row.label, "size": list(row.size)}
                    lines.append(json.dumps(line | {"grid": list(grid), "first": first}))
                    first += grid[0] * grid[1]
                _write_header(file, self._dtype, (first, width))
            text = "".join(f"{line}\n" for line in lines)
            write_text(self._path("images", shard, "jsonl"), text)
            if unreadable:
                text = "".join(f"{name}\n" for name in unreadable)
                write_text(self._path("unreadable", shard, "txt"), text)

    def count_rows(self) -> tuple[int, int]:
        """Images, and unreadable images, of all shards."""
        images, unreadable = (
            sum(_count_lines(self._path(kind, shard, suffix)) for shard in range(self.count))
            for kind, suffix in (("images", "jsonl"), ("unreadable", "txt"))
        )
        return images, unreadable

    def _cast(self, features: np.ndarray, name: str) -> np.ndarray:
        largest = float(np.max(np.abs(features)))
        if not largest <= float(np.finfo(self._dtype).max):
            raise ValueError(
                f"{name}: a feature of {largest:g} does not fit into {self._dtype}; use "
                "--dtype=float32"
                if np.isfinite(largest)
                else f"{name}: its features are not finite numbers; the model is broken"
            )
        return features.astype(self._dtype)

    def _path(self, kind: str, shard: int, suffix: str) -> str:
        return f"{self._out}/{kind}-{shard:05d}-of-{self.count:05d}.{suffix}"


def _write_header(file: BinaryIO, dtype: np.dtype, shape: tuple[int, int]) -> None:
    """Writes what np.save writes before an array, where room was left (NPY format 1.0)."""
    file.seek(0)
    fields = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    magic = np.lib.format.magic(1, 0)
    room = HEADER_BYTES - len(magic) - 2
    text = f"{fields!s:{room - 1}}\n".encode("ascii")
    file.write(magic + len(text).to_bytes(2, "little") + text)


def _count_lines(path: str) -> int:
    file = epath.Path(path)
    return len(file.read_bytes().splitlines()) if file.exists() else 0
