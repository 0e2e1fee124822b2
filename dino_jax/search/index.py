"""An index that is open for reading; nothing of it changes while it is."""

import functools
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dino_jax.config.section import suggest
from dino_jax.foreign.files import MAX_TEXT_BYTES, read_text
from dino_jax.search.conditions import Condition, holding
from dino_jax.search.engine import Found, search, search_lists, search_many
from dino_jax.search.manifest import (
    METADATA,
    REMOVED,
    DamagedIndexError,
    Manifest,
    read_manifest,
    sum_file,
)
from dino_jax.search.metadata import Table, Value, read_lines
from dino_jax.search.segment import Row, Segment

if TYPE_CHECKING:
    from dino_jax.search.lists import Lists

SAID_BYTES = 1 << 30  # of files whose checking takes a second or more, so that it is said
MOST_FILTERED = 0.1  # share of the rows that a filter may leave out for lists to be used
KEPT_COLUMNS, KEPT_MASKS = 32, 64  # in memory
BUILT_IN = ("name", "label")  # columns that every index has


class Index:
    """Rows with numbers from 0, in the order in which they were added; removed ones keep theirs.

    Attributes:
      folder: the folder.
      manifest: its index.json.
      live: [rows] uint8, 0 for removed rows.
    """

    def __init__(self, folder: Path, manifest: Manifest, approximate: bool = False):
        """Opens all files; see `open_index`."""
        self._lists = _load_lists(folder, manifest) if approximate else None
        self.folder, self.manifest = folder, manifest
        dim = manifest.dim
        self._segments = [Segment(folder, entry, dim) for entry in manifest.segments]
        self._starts = np.cumsum([0, *(len(segment) for segment in self._segments)])
        self.live = _read_live(folder, manifest)
        # A page asks for the same columns and filters again and again.
        self._column = functools.lru_cache(KEPT_COLUMNS)(self._read_column)
        self._holding = functools.lru_cache(KEPT_MASKS)(self._find_holding)

    def __len__(self) -> int:
        """Number of rows that are not removed."""
        return int(self.live.sum())

    def row(self, number: int) -> Row:
        """The row of a number in [0, rows), removed or not."""
        segment, place = self._locate(number)
        return segment.row(place)

    def vector(self, number: int) -> np.ndarray:
        """[d] float16, as it is stored."""
        segment, place = self._locate(number)
        return np.asarray(segment.part.vectors[place])

    def vectors(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """[m, d] float16 of m numbers."""
        wanted = np.asarray(numbers, np.int64)
        found = np.zeros((len(wanted), self.manifest.dim), np.float16)
        for segment, start in zip(self._segments, self._starts, strict=False):
            inside = (wanted >= start) & (wanted < start + len(segment))
            found[inside] = segment.part.vectors[wanted[inside] - start]
        return found

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Numbers and rows that are not removed."""
        every = (row for segment in self._segments for row in segment.rows())
        return ((number, row) for number, row in enumerate(every) if self.live[number])

    def find(self, name: str) -> int:
        """The number of a photograph.

        Raises:
          ValueError: if there is none of this name.
        """
        if name not in self._numbers:
            raise ValueError(f"{self.folder} has no photo {name!r}; {_near(name, self._numbers)}")
        return self._numbers[name]

    def values(self, number: int) -> dict[str, Value]:
        """What the metadata says of a row."""
        return self.table.get(self.row(number).name, {})

    @functools.cached_property
    def table(self) -> Table:
        """The metadata of all photographs."""
        file = self.manifest.single.get(METADATA)
        if file is None:
            return {}
        path = self.folder / file.name
        try:
            return read_lines(read_text(path, MAX_TEXT_BYTES))
        except (ValueError, TypeError, LookupError) as error:
            raise DamagedIndexError(f"{path} is damaged: {error}") from error

    @functools.cached_property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns."""
        named = dict.fromkeys(column for values in self.table.values() for column in values)
        return (*BUILT_IN, *(column for column in named if column not in BUILT_IN))

    def column(self, name: str) -> list[Value]:
        """The values of a column in all rows, removed ones too.

        Raises:
          ValueError: if there is no such column.
        """
        if name not in self.columns:
            raise ValueError(f"{self.folder} has no column {name!r}; {suggest(name, self.columns)}")
        return self._column(name)

    def _read_column(self, name: str) -> list[Value]:
        rows = [row for segment in self._segments for row in segment.rows()]
        if name == "name":
            return [row.name for row in rows]
        given = [self.table.get(row.name, {}).get(name) for row in rows]
        if name == "label":
            return [value or row.label for value, row in zip(given, rows, strict=True)]
        return given

    def allowed(self, conditions: Sequence[Condition] = ()) -> np.ndarray:
        """[rows] uint8: 1 for rows that are not removed and pass all conditions."""
        mask = self.live
        for condition in conditions:
            mask = mask & self._holding(condition)
        return mask

    def _find_holding(self, condition: Condition) -> np.ndarray:
        return holding(condition, self.column(condition.column))

    def search(self, vector: np.ndarray, k: int, allowed: np.ndarray | None = None) -> Found:
        """See `engine.search`; `allowed` is that of the method.

        Lists that were asked for are used unless a filter leaves out a tenth of the rows.
        """
        mask, entry = self.live if allowed is None else allowed, self.manifest.approximate
        few = mask.sum() < (1 - MOST_FILTERED) * self.live.sum()
        if self._lists and entry and not few:
            return self.search_lists(self._lists, entry.rows, vector, k, mask, entry.recall)
        return search(self._parts(), vector, k, self._masks(allowed))

    def search_lists(
        self,
        lists: "Lists",
        covered: int,
        vector: np.ndarray,
        k: int,
        allowed: np.ndarray,
        recall: float = 0.0,
    ) -> Found:
        """See `engine.search_lists`; `allowed` is that of the method."""
        masks = self._masks(allowed)
        return search_lists(lists.nearest, covered, self._parts(), vector, k, masks, recall)

    def search_many(
        self, vectors: np.ndarray, k: int, allowed: np.ndarray | None = None
    ) -> list[Found]:
        """See `engine.search_many`."""
        return search_many(self._parts(), vectors, k, self._masks(allowed))

    def _parts(self):
        return [segment.part for segment in self._segments]

    def _masks(self, allowed: np.ndarray | None) -> list[np.ndarray]:
        mask = self.live if allowed is None else allowed
        return np.split(mask, self._starts[1:-1]) if self._segments else []

    def _locate(self, number: int) -> tuple[Segment, int]:
        if not 0 <= number < self._starts[-1]:
            raise IndexError(f"row {number} is outside 0 to {self._starts[-1] - 1}")
        place = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self._segments[place], int(number - self._starts[place])

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {row.name: number for number, row in self.rows()}


def open_index(place: str | os.PathLike, checked: bool = True, approximate: bool = False) -> Index:
    """Opens an index.

    Args:
      place: the folder.
      checked: whether every file is compared with its SHA-256 first, which reads all of it: about
        a second per gigabyte, and said if there is so much. Sizes are always compared.
      approximate: whether lists of `dino-jax search approximate` are used.

    Raises:
      FileNotFoundError: if it is no index.
      DamagedIndexError: if a file is not the one that was written; names it.
      ValueError: if it has no lists and they are asked for, or faiss is not installed.
    """
    folder = Path(place).expanduser()
    while True:
        manifest = read_manifest(folder)
        try:
            check_files(folder, manifest, checked)
            return Index(folder, manifest, approximate)
        except FileNotFoundError as error:
            # A writer removes files once index.json does not name them any more.
            if read_manifest(folder).generation == manifest.generation:
                raise DamagedIndexError(
                    f"{error.filename} is missing; build the index again"
                ) from error


def check_files(folder: Path, manifest: Manifest, checked: bool = True) -> None:
    """Compares all files with the manifest; see `open_index`."""
    files = manifest.files()
    for file in files:
        size = (folder / file.name).stat().st_size
        if size != file.size:
            raise DamagedIndexError(
                f"{folder / file.name} is damaged: {size:,} bytes, {file.size:,} were written; "
                "build the index again"
            )
    total = sum(file.size for file in files)
    if checked and total > SAID_BYTES:
        print(
            f"checking {total / 1e9:.1f} GB of {folder} against its checksums; --unchecked would "
            "leave it out",
            file=sys.stderr,
        )
    for file in files if checked else ():
        if sum_file(folder, file.name) != file:
            raise DamagedIndexError(
                f"{folder / file.name} is damaged: its checksum differs; build the index again"
            )


def _load_lists(folder: Path, manifest: Manifest) -> "Lists":
    from dino_jax.search.lists import load_lists

    if manifest.approximate is None:
        raise ValueError(
            f"{folder} has no lists for --approximate (search compact drops them); make them with "
            f"dino-jax search approximate {folder}"
        )
    return load_lists(folder, manifest.approximate)


def _read_live(folder: Path, manifest: Manifest) -> np.ndarray:
    file, rows = manifest.single.get(REMOVED), manifest.rows
    if file is None:
        return np.ones(rows, np.uint8)
    path = folder / file.name
    try:
        bits = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DamagedIndexError(f"{path} is damaged: {error}") from error
    if bits.dtype != np.uint8 or bits.shape != (-(-rows // 8),):
        raise DamagedIndexError(f"{path} is damaged: {bits.dtype} {bits.shape} for {rows} rows")
    return 1 - np.unpackbits(bits, count=rows)


def _near(name: str, known: dict[str, int]) -> str:
    most = 10_000  # names among which a close one is looked for
    return suggest(name, known) if 0 < len(known) <= most else f"it has {len(known):,} photos"
