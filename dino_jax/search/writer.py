"""The one writer of an index: what it has not committed does not exist.

Segments, masks and tables are written under new names, then index.json is replaced: that is the
commit. A command that is killed before it leaves files that index.json does not name; the next
writer removes them. Readers go on with the files that they have open.
"""

import contextlib
import dataclasses
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from etils import epath

from dino_jax.commands.one_writer import one_writer
from dino_jax.search.index import Index, check_files
from dino_jax.search.manifest import (
    ADAPTER,
    APPROXIMATE,
    MANIFEST,
    METADATA,
    PROJECTION,
    REMOVED,
    Approximation,
    Manifest,
    read_manifest,
    sum_file,
    write_manifest,
)
from dino_jax.search.metadata import Table, write_lines
from dino_jax.search.segment import Row, write_segment
from dino_jax.workdir.paths import written_whole

if TYPE_CHECKING:  # it brings jax, which remove and compact do without
    from dino_jax.embedding.adapter import Adapter
    from dino_jax.embedding.projection import Projection
    from dino_jax.search.lists import Lists

Blocks = Iterable[tuple[np.ndarray, Sequence[Row]]]
MUCH_REMOVED = 0.2  # share of removed rows from which on an index is worth compacting
MANY_SEGMENTS = 16
ROWS_AT_ONCE = 1 << 16  # that are copied
SINGLE = "|".join((REMOVED, METADATA, PROJECTION, ADAPTER, APPROXIMATE))
_OURS = re.compile(
    rf"segment-\d+|({SINGLE})-\d+\.\w+|\.({SINGLE}|{re.escape(MANIFEST)})[-\w.]*\.part"
)


class Writer:
    """Changes of an index; `commit` makes all of them so far visible at once.

    Attributes:
      manifest: index.json as it is, with the changes that wait.
    """

    def __init__(self, folder: Path, manifest: Manifest):
        """Takes an index whose lock is held."""
        self.folder, self.manifest = folder, manifest
        self._removed = np.zeros(0, np.uint8)
        if manifest.generation:
            self._removed = (1 - Index(folder, manifest).live).astype(np.uint8)

    @property
    def _next(self) -> int:
        return self.manifest.generation + 1

    @property
    def removed_share(self) -> float:
        """Share of the rows that are removed."""
        return float(self._removed.mean()) if len(self._removed) else 0.0

    def add(self, blocks: Blocks) -> None:
        """Adds a segment; once per commit. Blocks are [n, dim] float16 of length 1 and n rows."""
        dim = self.manifest.dim
        entry = write_segment(self.folder, f"segment-{self._next:06d}", blocks, dim)
        if entry.rows:
            segments = (*self.manifest.segments, entry)
            self.manifest = dataclasses.replace(self.manifest, segments=segments)
            self._removed = np.pad(self._removed, (0, entry.rows))

    def remove(self, numbers: Iterable[int]) -> None:
        """Removes rows."""
        self._removed[list(numbers)] = 1

    def set_photos(self, photos: str) -> None:
        """Says where the photographs are now."""
        self.manifest = dataclasses.replace(self.manifest, photos=photos)

    def set_table(self, table: Table) -> None:
        """Replaces the metadata."""
        name = f"{METADATA}-{self._next}.jsonl"
        with written_whole(self.folder / name) as path, Path(path).open("w") as file:
            file.writelines(write_lines(table))
        self._name_single(METADATA, name)

    def set_projection(self, projection: "Projection") -> None:
        """Keeps the projection that queries need."""
        name = f"{PROJECTION}-{self._next}.npz"
        projection.save(epath.Path(self.folder / name))
        self._name_single(PROJECTION, name)

    def set_adapter(self, adapter: "Adapter") -> None:
        """Keeps the adapter that queries need."""
        name = f"{ADAPTER}-{self._next}.safetensors"
        adapter.save(self.folder / name)
        self._name_single(ADAPTER, name)

    def set_approximation(self, lists: "Lists", count: int, recall: float, queries: int) -> None:
        """Keeps lists of all rows so far, and what is known of them; see `Approximation`."""
        name = f"{APPROXIMATE}-{self._next}.faiss"
        with written_whole(self.folder / name) as path:
            lists.save(path)
        file, probes = sum_file(self.folder, name), min(lists.probes, count)
        found = Approximation(file, self.manifest.rows, count, probes, recall, queries)
        self.manifest = dataclasses.replace(self.manifest, approximate=found)

    def commit(self) -> None:
        """Makes the changes visible; on disk when this returns."""
        single = {what: file for what, file in self.manifest.single.items() if what != REMOVED}
        self.manifest = dataclasses.replace(self.manifest, single=single)
        if self._removed.any():
            name = f"{REMOVED}-{self._next}.npy"
            with written_whole(self.folder / name) as path, Path(path).open("wb") as file:
                np.save(file, np.packbits(self._removed), allow_pickle=False)
            self._name_single(REMOVED, name)
        self.manifest = dataclasses.replace(self.manifest, generation=self._next)
        write_manifest(self.folder, self.manifest)
        sweep(self.folder, self.manifest)

    def compact(self) -> None:
        """Copies the rows that are not removed into one segment, and commits."""
        index = Index(self.folder, self.manifest)
        live = np.flatnonzero(self._removed == 0)
        # Rows get other numbers, so lists of them are of no use.
        self.manifest = dataclasses.replace(self.manifest, segments=(), approximate=None)
        self._removed = np.zeros(0, np.uint8)

        def blocks() -> Blocks:
            for start in range(0, len(live), ROWS_AT_ONCE):
                numbers = live[start : start + ROWS_AT_ONCE]
                yield index.vectors(numbers), [index.row(int(number)) for number in numbers]

        self.add(blocks())
        self.commit()

    def _name_single(self, what: str, name: str) -> None:
        single = {**self.manifest.single, what: sum_file(self.folder, name)}
        self.manifest = dataclasses.replace(self.manifest, single=single)


@contextlib.contextmanager
def writing(folder: Path, new: Manifest | None = None) -> Iterator[Writer]:
    """Holds the lock of an index and gives its writer.

    Args:
      folder: of the index.
      new: what an index that does not exist yet begins with; None: it must exist.

    Raises:
      ValueError: if another command writes it, names its process and host.
      FileNotFoundError: if it does not exist.
      DamagedIndexError: if a file is not the one that was written; names it.
    """
    if new is None:
        read_manifest(folder)  # before a folder is made for the lock
    with one_writer(folder, "INDEX"):
        exists = (folder / MANIFEST).exists()
        manifest = read_manifest(folder) if exists or new is None else new
        if exists:
            sweep(folder, manifest)
            check_files(folder, manifest)  # else a copy would give damage a checksum of its own
        yield Writer(folder, manifest)


def sweep(folder: Path, manifest: Manifest) -> None:
    """Removes what index.json does not name, if its name is one of ours."""
    named = {file.name.split("/")[0] for file in manifest.files()}
    for path in folder.iterdir():
        if path.name in named or not _OURS.fullmatch(path.name):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def advice(writer: Writer) -> str:
    """A hint, for the end of a line, where an index holds much that is removed."""
    share = writer.removed_share
    if share <= MUCH_REMOVED:
        return ""
    return f"; {share:.0%} of its rows are removed: dino-jax search compact {writer.folder}"
