"""What an index holds: index.json, which is replaced as a whole, and names every other file.

Whatever index.json does not name is no part of the index. It holds the size and the SHA-256 of each
file, and a SHA-256 of itself.
"""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from dino_jax.foreign.files import read_bytes
from dino_jax.foreign.json_text import parse_json
from dino_jax.workdir.paths import written_whole

MANIFEST = "index.json"
VERSION, OF_SEVERAL = 1, 2  # formats: with one model, and with several
OTHERS = "others"  # models besides the first
REMOVED, METADATA, PROJECTION = "removed", "metadata", "projection"  # names of single files
ADAPTER = "adapter"  # likewise
APPROXIMATE = "approximate"  # name of a file, and of what is said of it
PIECES = ("vectors.npy", "codes.npy", "scales.npy", "errors.npy", "rows.jsonl")  # of a segment
MOST_BYTES = 1 << 26  # of index.json


class DamagedIndexError(ValueError):
    """A file of an index is not the one that was written; the message names it."""


@dataclasses.dataclass(frozen=True)
class Origin:
    """How the vectors of an index are made; a query must be made in the same way.

    Attributes:
      model: title of the model.
      fingerprint: of its weights, see `fingerprint_of`; "" if vectors came without the model.
      path: where the model was loaded from; "" if unknown.
      step: checkpoint of a workdir; None for a file of weights.
      image_size: side of what the network sees, in pixels.
      tokens, layers: as in `dino-jax embed`.
      reduced: whether the projection in the index is applied.
      dim: numbers per row, after the adapter if the index has one.
    """

    model: str
    fingerprint: str
    path: str
    step: int | None
    image_size: int
    tokens: str
    layers: int
    reduced: bool
    dim: int


@dataclasses.dataclass(frozen=True)
class FileSum:
    """A file: its name inside the index, its size in bytes and its SHA-256."""

    name: str
    size: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class SegmentEntry:
    """A folder of rows that never changes: its name, its number of rows, and its `PIECES`."""

    name: str
    rows: int
    files: tuple[FileSum, ...]


@dataclasses.dataclass(frozen=True)
class Approximation:
    """Lists that are searched instead of all rows where that is asked for.

    Attributes:
      file: what faiss has written.
      rows: number of rows in it, the first ones of the index.
      lists, probes: how many there are, and how many a query looks into.
      recall: share of the 10 nearest that was found when they were made.
      queries: rows of the index of which that is the mean.
    """

    file: FileSum
    rows: int
    lists: int
    probes: int
    recall: float
    queries: int


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The content of index.json.

    Attributes:
      origin: how the vectors are made; of several models, those of the first.
      photos: folder of the photographs; "" if there is none.
      generation: counts the changes.
      segments: in the order of their rows.
      single: files outside of segments by what they are: `REMOVED` (the mask of removed rows),
        `METADATA`, `PROJECTION` and `ADAPTER`, each if there is one.
      approximate: lists, None if there are none.
      others: further models, whose vectors follow in each row, see `mixture`.
    """

    origin: Origin
    photos: str
    generation: int = 0
    segments: tuple[SegmentEntry, ...] = ()
    single: dict[str, FileSum] = dataclasses.field(default_factory=dict)
    approximate: Approximation | None = None
    others: tuple[Origin, ...] = ()

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Those of all models."""
        return (self.origin, *self.others)

    @property
    def dims(self) -> tuple[int, ...]:
        """Numbers per row of each model."""
        return tuple(origin.dim for origin in self.origins)

    @property
    def dim(self) -> int:
        """Numbers per row."""
        return sum(self.dims)

    @property
    def rows(self) -> int:
        """Rows of all segments, also removed ones."""
        return sum(segment.rows for segment in self.segments)

    def files(self) -> list[FileSum]:
        """All files but index.json."""
        lists = [self.approximate.file] if self.approximate else []
        return [
            *self.single.values(),
            *lists,
            *(file for one in self.segments for file in one.files),
        ]


def require_one_model(manifest: Manifest, folder: Path) -> None:
    """Checks that an index has the vectors of one model alone, as an adapter takes them.

    Raises:
      ValueError: if it has those of several.
    """
    if manifest.others:
        raise ValueError(
            f"{folder} holds the vectors of {len(manifest.origins)} models; an adapter is tuned on "
            "those of one: build an index without --other"
        )


def sum_file(folder: Path, name: str) -> FileSum:
    """Size and SHA-256 of a file of an index."""
    with (folder / name).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileSum(name, os.fstat(file.fileno()).st_size, digest)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replaces index.json; on disk when this returns."""
    with written_whole(folder / MANIFEST) as path:
        Path(path).write_bytes(_encode(manifest))
    sync_folder(folder)


def read_manifest(folder: Path) -> Manifest:
    """Reads index.json.

    Raises:
      FileNotFoundError: if the folder is no index.
      DamagedIndexError: if it is not what was written, to the last byte.
      ValueError: if a newer version has written it.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise FileNotFoundError(
            f"{folder} is not an index (it has no {MANIFEST}); make one with dino-jax search build"
        )
    data = read_bytes(path, MOST_BYTES)
    try:
        plain = parse_json(data)
        newer = plain["version"] not in (VERSION, OF_SEVERAL) and plain["sha256"] == _digest(
            _without_sum(plain)
        )
        found = None if newer else _from_plain(plain)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise DamagedIndexError(f"{path} is damaged: {error}; build the index again") from error
    if found is None:
        raise ValueError(
            f"{path} has the format {plain['version']}, this version reads {VERSION} and "
            f"{OF_SEVERAL}"
        )
    if _encode(found) != data:
        raise DamagedIndexError(f"{path} is damaged: its checksum differs; build the index again")
    return found


def sync_folder(folder: Path) -> None:
    """Puts the names in a folder on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _encode(manifest: Manifest) -> bytes:
    version = OF_SEVERAL if manifest.others else VERSION
    plain = {"version": version, **dataclasses.asdict(manifest)}
    plain = json.loads(json.dumps(plain))
    if manifest.approximate is None:  # as before there were any
        del plain[APPROXIMATE]
    if not manifest.others:
        del plain[OTHERS]
    return json.dumps({**plain, "sha256": _digest(plain)}, indent=1).encode() + b"\n"


def _digest(plain: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()


def _without_sum(plain: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in plain.items() if name != "sha256"}


def _from_plain(plain: dict[str, Any]) -> Manifest:
    """Raises errors of many kinds for anything that is no manifest."""
    segments = [
        SegmentEntry(one["name"], int(one["rows"]), tuple(FileSum(**file) for file in one["files"]))
        for one in plain["segments"]
    ]
    single = {what: FileSum(**file) for what, file in plain["single"].items()}
    origin, lists = Origin(**plain["origin"]), plain.get(APPROXIMATE)
    if lists is not None:
        lists = Approximation(**{**lists, "file": FileSum(**lists["file"])})
    generation = int(plain["generation"])
    others = tuple(Origin(**one) for one in plain.get(OTHERS, ()))
    return Manifest(origin, plain["photos"], generation, tuple(segments), single, lists, others)
