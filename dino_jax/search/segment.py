"""A segment: rows that were added together, in a folder that never changes.

vectors.npy  [n, d] float16 of length 1      codes.npy   [n, d] int8
scales.npy   [n] float32                     errors.npy  [n] float32, see `codes.Codes`
rows.jsonl   one object per row: {"name": "cat/1.jpg", "label": "cat", "size": 90135,
             "mtime_ns": 1700000000000000000, "sha256": "9f…"}; size, mtime_ns and sha256 are 0, 0
             and "" where the file was not there when its vector came
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dino_jax.foreign.json_text import parse_json
from dino_jax.search.codes import Codes, encode
from dino_jax.search.engine import Part
from dino_jax.search.manifest import (
    PIECES,
    DamagedIndexError,
    SegmentEntry,
    sum_file,
    sync_folder,
)


class Row(NamedTuple):
    """A photograph of an index.

    Attributes:
      name: printable name inside its folder.
      label: name of its class, None for none.
      size: bytes of the file, 0 if unknown.
      mtime_ns: time of its last change in nanoseconds, 0 if unknown.
      sha256: of its bytes, in hexadecimal digits; "" if unknown.
    """

    name: str
    label: str | None = None
    size: int = 0
    mtime_ns: int = 0
    sha256: str = ""


def write_segment(
    folder: Path, name: str, blocks: Iterable[tuple[np.ndarray, Sequence[Row]]], dim: int
) -> SegmentEntry:
    """Writes the rows of all blocks; on disk when this returns.

    Args:
      folder: of the index.
      name: of the segment; what is left there of a killed command is removed.
      blocks: pairs of [n, dim] float16 rows of length 1, and their n names.
      dim: numbers per row.
    """
    place = folder / name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    total = 0
    with (
        (place / "rows.jsonl").open("w", encoding="utf-8") as lines,
        _Growing(place / "vectors.npy", np.float16, (dim,)) as vectors,
        _Growing(place / "codes.npy", np.int8, (dim,)) as codes,
        _Growing(place / "scales.npy", np.float32, ()) as scales,
        _Growing(place / "errors.npy", np.float32, ()) as errors,
    ):
        for rows, named in blocks:
            coded = encode(rows)
            for file, array in zip((vectors, codes, scales, errors), (rows, *coded), strict=True):
                file.append(array)
            lines.writelines(json.dumps(row._asdict()) + "\n" for row in named)
            total += len(named)
        lines.flush()
        os.fsync(lines.fileno())
    sync_folder(place)
    sync_folder(folder)
    return SegmentEntry(name, total, tuple(sum_file(folder, f"{name}/{one}") for one in PIECES))


class _Growing:
    """An NPY file that becomes longer; its header is written again in the end."""

    ROOM = 10**15  # rows for which the header has room

    def __init__(self, path: Path, dtype: type, shape: tuple[int, ...]):
        self._path, self._dtype, self._shape, self._rows = path, np.dtype(dtype), shape, 0

    def __enter__(self) -> "_Growing":
        self._file = self._path.open("wb")
        self._begin = self._write_header(self.ROOM)
        return self

    def append(self, array: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(array, self._dtype).tobytes())
        self._rows += len(array)

    def __exit__(self, *error: object) -> None:
        with self._file:
            self._file.seek(0)
            if self._write_header(self._rows) != self._begin:
                raise AssertionError("the header of an NPY file has another length")
            self._file.flush()
            os.fsync(self._file.fileno())

    def _write_header(self, rows: int) -> int:
        """Returns its length, which NumPy's padding keeps for up to `ROOM` rows."""
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (rows, *self._shape),
        }
        np.lib.format.write_array_header_1_0(self._file, header)
        return self._file.tell()


class Segment:
    """An open segment; large arrays are mapped, rows are parsed when they are asked for.

    Attributes:
      part: its vectors and codes.
    """

    def __init__(self, folder: Path, entry: SegmentEntry, dim: int):
        """Opens the files.

        Raises:
          DamagedIndexError: if one is not as the manifest says; names it.
        """
        place, self._rows = folder / entry.name, entry.rows
        wide = (entry.rows, dim)
        self.part = Part(
            _open(place / "vectors.npy", np.float16, wide, mapped=True),
            Codes(
                _open(place / "codes.npy", np.int8, wide, mapped=True),
                _open(place / "scales.npy", np.float32, (entry.rows,)),
                _open(place / "errors.npy", np.float32, (entry.rows,)),
            ),
        )
        self._path = place / "rows.jsonl"
        self._text = np.memmap(self._path, np.uint8, "r") if entry.rows else np.zeros(0, np.uint8)
        self._ends = np.flatnonzero(self._text == ord("\n"))
        if len(self._ends) != entry.rows:
            raise DamagedIndexError(
                f"{self._path} is damaged: {len(self._ends)} lines for {entry.rows} rows"
            )

    def __len__(self) -> int:
        return self._rows

    def row(self, number: int) -> Row:
        """One row by its place in the segment.

        Raises:
          DamagedIndexError: if its line is none of ours.
        """
        start = self._ends[number - 1] + 1 if number else 0
        try:
            return Row(**parse_json(self._text[start : self._ends[number]].tobytes()))
        except (ValueError, TypeError) as error:
            line = f"line {number + 1} of {self._path}"
            raise DamagedIndexError(f"{line} is damaged: {error}") from error

    def rows(self) -> Iterator[Row]:
        """All of them."""
        return (self.row(number) for number in range(self._rows))


def _open(path: Path, dtype: type, shape: tuple[int, ...], mapped: bool = False) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r" if mapped and shape[0] else None, allow_pickle=False)
    except FileNotFoundError:
        raise
    except Exception as error:  # NumPy's reader of headers raises many kinds
        raise DamagedIndexError(f"{path} is damaged: {error}") from error
    if array.dtype != dtype or array.shape != shape:
        raise DamagedIndexError(
            f"{path} is damaged: it holds {array.dtype} {array.shape}, index.json says "
            f"{np.dtype(dtype)} {shape}"
        )
    return array
