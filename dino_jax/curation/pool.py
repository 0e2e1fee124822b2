"""The rows of an embedded folder, all of them or those that an earlier step has kept."""

import functools
import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from dino_jax.data.sources import ImageSource, build_source
from dino_jax.embedding.embedded import read_embedded
from dino_jax.embedding.shards import Rows
from dino_jax.foreign.files import open_regular, read_bytes
from dino_jax.search.codes import unit_rows

KEPT = "kept.npy"  # [m, 2] int64: row, and how often it is taken; sorted by row
_HEAD_BYTES = 1 << 20  # of a shard that tell it from another one


class Part(NamedTuple):
    """Rows of one shard.

    Attributes:
      numbers: [m] int64 places among all rows of the folder, ascending.
      vectors: [m, d] float16 of length 1.
    """

    numbers: np.ndarray
    vectors: np.ndarray


class Pool:
    """Random access to shards of rows; small when pickled, workers read for themselves."""

    def __init__(self, place: str, kept: str = "", option: str = "EMBEDDED"):
        """Opens the folder.

        Args:
          place: folder of `dino-jax embed`, local or remote.
          kept: folder of an earlier step of `dino-jax curate`, whose images alone count; "": all.
          option: what names the folder on the command line.

        Raises:
          ValueError: if it is not complete, holds no rows, or `kept` was made of another folder.
          OSError: if it is no such folder.
        """
        self.place, self.option = place, option
        self.plan, self._shards = read_embedded(epath.Path(place), option)
        shards = range(self._shards.count)
        self.starts = np.cumsum([0, *(self._shards.count_rows_of(one) for one in shards)])
        self._kept = f"{kept}/{KEPT}" if kept else ""
        self._held: dict[int, Part] | None = None
        if self._kept:
            rows = load_array(self._kept)
            if (
                rows.ndim != 2
                or rows.shape[1:] != (2,)
                or not np.issubdtype(rows.dtype, np.integer)
            ):
                raise ValueError(f"{self._kept} is not what dino-jax curate writes: {rows.shape}")
            if len(rows) and (rows[0, 0] < 0 or rows[-1, 0] >= self.starts[-1]):
                raise ValueError(
                    f"--of={kept} was made of another folder: it names row {rows[-1, 0]:,}, "
                    f"{option}={place} has {self.starts[-1]:,}"
                )
        if not len(self):
            raise ValueError(f"{option}={place} has no rows{' that were kept' * bool(kept)}")

    def __getstate__(self) -> dict[str, Any]:
        """What travels to workers: no rows."""
        state = dict(self.__dict__)
        state["_held"] = None
        for name in ("rows", "_digests"):
            state.pop(name, None)
        return state

    def __len__(self) -> int:
        return len(self.rows)

    @functools.cached_property
    def rows(self) -> np.ndarray:
        """[n] int64 numbers of the rows that count, ascending."""
        if not self._kept:
            return np.arange(self.starts[-1])
        return load_array(self._kept)[:, 0].astype(np.int64)

    @property
    def total(self) -> int:
        """Rows of the folder, whether they count or not."""
        return int(self.starts[-1])

    @property
    def parts(self) -> range:
        """Numbers of the shards."""
        return range(self._shards.count)

    def hold(self) -> None:
        """Keeps in memory what is read from now on: two bytes for each number."""
        self._held = {}

    def part(self, shard: int) -> Part:
        """The rows of a shard that count.

        Raises:
          ValueError: if the shard is damaged, or a vector is not finite; names the file.
          OSError: if it can't be read.
        """
        if self._held is not None and shard in self._held:
            return self._held[shard]
        part = self._read(shard)
        if self._held is not None:
            self._held[shard] = part
        return part

    def _read(self, shard: int) -> Part:
        path = self._shards.vectors_path(shard)
        vectors = self._shards.read_vectors(shard)
        first, end = self.starts[shard], self.starts[shard + 1]
        if len(vectors) != end - first:
            raise ValueError(f"{path} has {len(vectors)} vectors and {end - first} names")
        chosen = np.arange(first, end)
        if self._kept:
            chosen = self.rows[slice(*np.searchsorted(self.rows, [first, end]))]
            vectors = vectors[chosen - first]
        try:
            return Part(chosen, unit_rows(vectors))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def gather(self, numbers: np.ndarray) -> np.ndarray:
        """[m, d] float16 rows by number, ascending or not; reads the shards one after the other."""
        order = np.argsort(numbers, kind="stable")
        ends = np.searchsorted(numbers[order], self.starts)
        found = None
        for shard in np.flatnonzero(np.diff(ends)).tolist():
            some = order[ends[shard] : ends[shard + 1]]
            part = self.part(shard)
            if found is None:
                found = np.empty((len(numbers), part.vectors.shape[1]), np.float16)
            found[some] = part.vectors[np.searchsorted(part.numbers, numbers[some])]
        if found is None:
            return np.zeros((0, self.part(0).vectors.shape[1]), np.float16)
        return found

    def names(self, shard: int) -> Rows:
        """Names and labels of a shard, of all of its rows."""
        return self._shards.read(shard)

    def identity(self, index: int) -> str:
        """What tells the shard of a row from another one."""
        shard = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self._digests[shard]

    @functools.cached_property
    def _digests(self) -> list[str]:
        found = []
        for shard in self.parts:
            with open_regular(self._shards.vectors_path(shard)) as file:
                head = file.read(_HEAD_BYTES)
            found.append(hashlib.sha256(head).hexdigest()[:16])
        if self._kept:
            found.append(hashlib.sha256(read_bytes(self._kept, 1 << 40)).hexdigest()[:16])
        return found

    @property
    def digest(self) -> str:
        """What tells these rows from those of another folder or another earlier step."""
        return hashlib.sha256("".join(self._digests).encode()).hexdigest()[:16]

    def source(self) -> ImageSource:
        """Opens the images of the rows, as they were embedded.

        Raises:
          ValueError, OSError, ImportError: as `build_source`.
        """
        return build_source(_section(self.plan), "the source of the embedded folder")

    def source_kind(self) -> str:
        """Its kind, such as "folder"."""
        return str(self.plan.get("source.kind", ""))

    def indices(self, source: ImageSource | None) -> np.ndarray:
        """[total] int64, the place of each row in the source: some images may have no row.

        Args:
          source: needed only where images could not be read.

        Raises:
          ValueError: if it is needed and not there, or holds other images by now.
        """
        per_shard = int(self.plan["shard_images"])
        found = []
        for shard in self.parts:
            lost = self._shards.read_unreadable(shard)
            count = int(self.starts[shard + 1] - self.starts[shard])
            places = shard * per_shard + np.arange(count + len(lost))
            if lost:
                if source is None:
                    raise ValueError(
                        f"{len(lost)} images of shard {shard} of {self.place} could not be read, "
                        "and which they are is only known where the source can be opened"
                    )
                places = np.delete(places, _places_of(lost, places, source, self.place))
            found.append(places)
        return np.concatenate(found)


def _places_of(
    lost: Sequence[str], places: np.ndarray, source: ImageSource, folder: str
) -> list[int]:
    """Which of the images of a shard are those that could not be read."""
    waiting, found = list(lost), []
    for at, index in enumerate(places.tolist()):
        if waiting and index < len(source) and source.name(index) == waiting[0]:
            waiting.pop(0)
            found.append(at)
    if waiting:
        raise ValueError(
            f"{folder}: {waiting[0]!r} is not in the source any more; the images have changed "
            "since they were embedded, so embed them again"
        )
    return found


def _section(plan: dict[str, Any]) -> dict[str, Any]:
    """The nested section `source` of a flat plan."""
    section: dict[str, Any] = {}
    for name, value in plan.items():
        first, *inner = name.split(".")
        if first == "source" and inner:
            at = section
            for key in inner[:-1]:
                at = at.setdefault(key, {})
            at[inner[-1]] = value
    return section


def load_array(path: str) -> np.ndarray:
    """Reads an .npy file, local or remote.

    Raises:
      ValueError: if it is damaged; names it.
      OSError: if it is not there.
    """
    try:
        with open_regular(path) as file:
            return np.load(file, allow_pickle=False)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # NumPy's reader raises many kinds
        raise ValueError(f"{path} can't be read: {error}") from error
