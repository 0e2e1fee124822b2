"""The result of a step: the images that are kept, as a list that sources read, and those removed.

kept.npy      [m, 2] int64: row of the embedded folder, and how often it is taken
kept.csv      index,name,times: what `config.data.kind = "chosen"` reads, whatever the source is
kept.txt      paths, one a line, as often as they are taken: `config.data.kind = "list"`; only
              where images are files
removed.csv   name,reason,partner,similarity
"""

import csv
import io
import os
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from dino_jax.curation.pool import KEPT, Pool
from dino_jax.curation.work import Work
from dino_jax.data.sources import ImageSource
from dino_jax.data.sources.chosen import COLUMNS
from dino_jax.workdir.paths import absolute_path

FILES = ("folder", "list", "glob")  # kinds of sources whose images are files
REMOVED = ("name", "reason", "partner", "similarity")


class Removed(NamedTuple):
    """An image that is not kept.

    Attributes:
      row: its row.
      reason: one or a few words.
      partner: what it is like, or "".
      similarity: a number as text, or "".
    """

    row: int
    reason: str
    partner: str = ""
    similarity: str = ""


class Names:
    """Names and labels of rows; reads each shard once, when it is asked for."""

    def __init__(self, pool: Pool):
        self._pool = pool
        self._read: dict[int, tuple[list[str], list[str | None]]] = {}

    def name(self, row: int) -> str:
        return self._of(row, 0) or ""

    def label(self, row: int) -> str | None:
        return self._of(row, 1)

    def _of(self, row: int, column: int) -> str | None:
        shard = int(np.searchsorted(self._pool.starts, row, side="right")) - 1
        if shard not in self._read:
            rows = self._pool.names(shard)
            self._read[shard] = (rows.names, rows.labels)
        return self._read[shard][column][row - int(self._pool.starts[shard])]


def write_kept(
    work: Work, pool: Pool, rows: np.ndarray, times: np.ndarray, source: ImageSource | None
) -> list[str]:
    """Writes the three lists of what is kept; returns lines about what could not be written.

    Args:
      work: folder of the step.
      pool: the rows.
      rows: [m] int64 that are kept, ascending.
      times: [m] int64 how often.
      source: the images; None if it could not be opened.

    Raises:
      ValueError: if nothing is kept.
    """
    if not len(rows):
        raise ValueError(f"none of {len(pool):,} images would be kept; loosen the thresholds")
    names, said = Names(pool), []
    try:
        indices = pool.indices(source)
    except ValueError as error:
        said.append(f"kept.csv and kept.txt are not written: {error}")
    else:
        table = (
            (int(indices[row]), names.name(row), count)
            for row, count in zip(rows.tolist(), times.tolist(), strict=True)
        )
        work.write("kept.csv", as_csv(COLUMNS, table))
        if pool.source_kind() in FILES and source is not None:
            lines = list(_paths(source, names, rows, times, indices))
            if any("\t" in path or "\n" in path or "\r" in path for path, _ in lines):
                said.append(
                    "kept.txt is not written: a path holds a tab or a line break; use "
                    'config.data.kind = "chosen" with kept.csv'
                )
            else:
                work.write("kept.txt", "".join(f"{path}{label}\n" for path, label in lines))
    work.save(KEPT, np.stack([rows, times], axis=1).astype(np.int64))
    for line in said:
        print(line, file=sys.stderr, flush=True)
    return said


def _paths(
    source: ImageSource, names: Names, rows: np.ndarray, times: np.ndarray, indices: np.ndarray
) -> Iterator[tuple[str, str]]:
    """Path, and a tab with the label, as often as a row is taken."""
    path_of = source.path  # pyright: ignore[reportAttributeAccessIssue]
    for row, count in zip(rows.tolist(), times.tolist(), strict=True):
        label = names.label(row)
        named = "" if label is None else f"\t{label}"
        place = os.fspath(absolute_path(path_of(int(indices[row]))))  # a list lies elsewhere
        yield from [(place, named)] * count


def write_removed(work: Work, pool: Pool, removed: Iterable[Removed]) -> None:
    """Writes removed.csv, in the order of the rows."""
    names = Names(pool)
    lines = ((names.name(one.row), *one[1:]) for one in sorted(removed))
    work.write("removed.csv", as_csv(REMOVED, lines))


def as_csv(columns: Iterable[str], lines: Iterable[Iterable[object]]) -> str:
    """A CSV with a line of column names."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(lines)
    return text.getvalue()


def open_source(pool: Pool) -> ImageSource | None:
    """The images of a pool; None, and a line on stderr, if they can't be opened here."""
    try:
        source = pool.source()
    except (ValueError, OSError, ImportError) as error:
        line = f"the images can't be opened, so neither kept.txt nor a sheet is written: {error}"
        print(line, file=sys.stderr, flush=True)
        return None
    return getattr(source, "original", source)
