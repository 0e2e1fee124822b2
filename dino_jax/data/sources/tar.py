"""Tar shards in the layout of webdataset, with random access."""

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np

from dino_jax.data.sources.base import (
    Blocks,
    Contents,
    PackedNames,
    Record,
    digest_labels,
    index_labels,
)
from dino_jax.data.sources.image_files import IMAGE_SUFFIXES
from dino_jax.data.sources.storage import ByteRanges, find_shards, map_in_threads
from dino_jax.foreign.files import open_regular
from dino_jax.foreign.json_text import parse_json
from dino_jax.foreign.names import printable

_BLOCK = 512  # bytes; a header is one block, and data fill whole blocks (POSIX.1-1988 ustar)
_DECIMAL = re.compile(r"[0-9]{1,19}")
ARRAY = "npy"  # an image, or numbers about one
_REGULAR_FILES = (b"0", b"\0", b"7")
_MAX_LABEL_BYTES = 1 << 20
_MAX_EXTENDED_BYTES = 1 << 20  # of a pax header or a long name
_SPARSE = b"S"  # GNU, old format: more headers may follow, the data have holes


@dataclass(frozen=True)
class Member:
    """A file inside a tar file: its name and the bytes [offset, offset + size)."""

    name: str
    offset: int
    size: int


@dataclass
class _Sample:
    """The members of one key: KEY.jpg, KEY.cls, KEY.json …"""

    key: str
    images: dict[str, Member] = field(default_factory=dict)
    label: int | str | None = None


@dataclass(frozen=True)
class _ShardIndex:
    """Positions of the images of one shard."""

    names: PackedNames
    offsets: np.ndarray  # [images] int64, bytes
    sizes: np.ndarray  # [images] int64, bytes
    labels: list[int | str | None]


class TarSource:
    """Samples of uncompressed tar shards: consecutive members with the same name up to a dot.

    The member of a sample with an image suffix is read (KEY.jpg; where there are several, such as
    KEY.jpg and KEY.seg.png, the only one without a second dot; KEY.npy where there is no other).
    Its label is the content of KEY.cls or the entry "cls" or "label" of KEY.json, a class index or
    a name. Samples without an image are skipped. All headers are read once, at the start: about 60
    bytes of memory per image.
    """

    def __init__(self, path: str):
        """Indexes the shards.

        Args:
          path: a .tar file, a folder of them or a glob pattern; local or gs://.

        Raises:
          FileNotFoundError: if there are no shards.
          ValueError: if a shard is compressed, damaged or truncated, or a sample has several
            images.
        """
        self._shards = find_shards(path, ".tar")
        self._indexes = map_in_threads(_index_shard, self._shards)
        self._blocks = Blocks([len(index.names) for index in self._indexes])
        if not len(self._blocks):
            raise ValueError(f"the {len(self._shards)} tar shards at {path!r} hold no images")
        labels = [label for index in self._indexes for label in index.labels]
        self.class_names, self._labels = index_labels(labels)
        for index in self._indexes:
            index.labels.clear()
        self._ranges = ByteRanges()

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, index: int) -> Record:
        shard, place = self._blocks.locate(index)
        entry = self._indexes[shard]
        offset, size = int(entry.offsets[place]), int(entry.sizes[place])
        return {
            "image": self._ranges.read(self._shards[shard], offset, size),
            "label": int(self._labels[index]),
            "name": entry.names[place],
        }

    def name(self, index: int) -> str:
        """The shard and the member."""
        shard, place = self._blocks.locate(index)
        return printable(f"{self._shards[shard]}:{self._indexes[shard].names[place]}")

    def contents(self) -> Contents:
        """Names, shards, sizes and labels."""
        sizes = hashlib.blake2b(digest_size=16)
        for entry in self._indexes:
            sizes.update(entry.sizes.tobytes())
        shards = [shard.rpartition("/")[2] for shard in self._shards]
        counts = [len(entry.names) for entry in self._indexes]
        labels = digest_labels(self.class_names, self._labels)
        names = PackedNames.joined([entry.names for entry in self._indexes])
        return Contents(len(self), names, (shards, counts, sizes.hexdigest(), labels))


def list_members(file: BinaryIO, path: str) -> Iterator[Member]:
    """Yields the regular files of an uncompressed tar file, reading headers only.

    Understands ustar, long names of GNU and pax headers (name and size). Of a sparse file only the
    stored pieces are in the tar file: its bytes are found, and are no image unless it has no hole.

    Args:
      file: opened for reading, seekable.
      path: for messages.

    Raises:
      ValueError: if it is not a tar file, or damaged, or ends too early.
    """
    end = file.seek(0, os.SEEK_END)
    position = 0
    extra: dict[str, str] = {}
    while position < end:
        file.seek(position)
        header = file.read(_BLOCK)
        if not header.strip(b"\0"):
            return
        _check_header(header, path, position)
        kind, size = header[156:157], _size(header, extra, path, position)
        offset = position + _BLOCK
        if kind == _SPARSE:
            offset = _skip_sparse_headers(file, header, offset)
        position = offset + -(-size // _BLOCK) * _BLOCK
        if offset + size > end:
            raise ValueError(f"tar shard {path} is cut off: it ends inside {_name(header)!r}")
        if kind in (b"L", b"x") and size > _MAX_EXTENDED_BYTES:
            raise ValueError(
                f"tar shard {path} has an extended header of {size:,} bytes at byte {offset}; at "
                f"most {_MAX_EXTENDED_BYTES:,} are read"
            )
        if kind == b"L":
            extra["path"] = os.fsdecode(file.read(size).rstrip(b"\0"))
        elif kind == b"x":
            extra |= _pax_entries(file.read(size), path)
        else:
            if kind in (*_REGULAR_FILES, _SPARSE):
                yield Member(extra.get("path", _name(header)), offset, size)
            if kind not in (b"g", b"K"):
                extra = {}


def _index_shard(path: str) -> _ShardIndex:
    samples = _read_samples(path)
    images = [_only_image(sample, path) for sample in samples]
    return _ShardIndex(
        names=PackedNames([image.name for image in images]),
        offsets=np.array([image.offset for image in images], np.int64),
        sizes=np.array([image.size for image in images], np.int64),
        labels=[sample.label for sample in samples],
    )


def _read_samples(path: str) -> list[_Sample]:
    """All samples of a shard that have an image."""
    samples: list[_Sample] = []
    with open_regular(path) as file:
        for member in list_members(file, path):
            folder, _, base = member.name.rpartition("/")
            stem, _, suffix = base.partition(".")
            key = f"{folder}/{stem}"
            if not stem or not suffix:
                continue
            if not samples or samples[-1].key != key:
                samples.append(_Sample(key))
            if f".{suffix.lower()}".endswith(IMAGE_SUFFIXES):
                samples[-1].images[suffix] = member
            elif suffix in ("cls", "json") and member.size <= _MAX_LABEL_BYTES:
                file.seek(member.offset)
                label = _read_label(
                    suffix, file.read(member.size), printable(f"{path}:{member.name}")
                )
                samples[-1].label = label if label is not None else samples[-1].label
    return [sample for sample in samples if sample.images]


def _read_label(suffix: str, data: bytes, name: str) -> int | str | None:
    try:
        if suffix == "cls":
            return data.decode().strip() or None
        content = parse_json(data)
    except ValueError as error:
        raise ValueError(f"the label in {name} can't be read: {error}") from error
    if not isinstance(content, dict):
        return None
    label = content.get("cls", content.get("label"))
    return label if isinstance(label, int | str) and not isinstance(label, bool) else None


def _only_image(sample: _Sample, path: str) -> Member:
    pictures = [suffix for suffix in sample.images if not suffix.endswith(ARRAY)]
    plain = [suffix for suffix in pictures or sample.images if "." not in suffix]
    candidates = plain or pictures or list(sample.images)
    if len(candidates) > 1:
        raise ValueError(
            f"sample {sample.key!r} of {path} has several images: {sorted(sample.images)[:5]}; "
            "the key of a sample is its name up to the first dot, so names of images must not have "
            "other dots"
        )
    return sample.images[candidates[0]]


def _check_header(header: bytes, path: str, position: int) -> None:
    """The checksum is the sum of all bytes, with itself taken as eight blanks."""
    if position == 0 and header[:2] == b"\x1f\x8b":
        raise ValueError(f"tar shard {path} is compressed; unpack it with gunzip for random access")
    if len(header) < _BLOCK:
        raise ValueError(f"tar shard {path} is cut off at byte {position}")
    checksum = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if checksum != _number(header[148:156]):
        raise ValueError(f"{path} is not a tar file, or damaged at byte {position}")


def _size(header: bytes, extra: dict[str, str], path: str, position: int) -> int:
    """The size in the header, or in the extended header before it."""
    text = extra.get("size")
    if text is None:
        size = _number(header[124:136])
    else:
        size = int(text) if _DECIMAL.fullmatch(text) else -1
    if size < 0:
        raise ValueError(f"tar shard {path} has a damaged size at byte {position}")
    return size


def _skip_sparse_headers(file: BinaryIO, header: bytes, offset: int) -> int:
    """Where the data of a sparse file begin: its headers say whether another follows."""
    more = header[482]
    while more:
        block = file.read(_BLOCK)
        offset += _BLOCK
        more = block[504] if len(block) == _BLOCK else 0
    return offset


def _number(digits: bytes) -> int:
    """Octal text, or base 256 if the first bit is set (GNU); -1 if it is neither."""
    if digits[0] & 0x80:
        return int.from_bytes(digits[1:], "big")
    text = digits.strip(b" \0")
    return int(text or b"0", 8) if not text.strip(b"01234567") else -1


def _name(header: bytes) -> str:
    prefix = b""
    if header[257:263] == b"ustar\0":
        prefix = header[345:500].partition(b"\0")[0]
    name = header[:100].partition(b"\0")[0]
    return os.fsdecode(prefix + b"/" + name if prefix else name)


def _pax_entries(data: bytes, path: str) -> dict[str, str]:
    """Records "LENGTH KEY=VALUE\\n"; LENGTH counts the whole record."""
    entries, start = {}, 0
    while start < len(data):
        length = data[start : start + 20].partition(b" ")[0]
        end = start + int(length) if length.isdigit() else start
        if not start < end <= len(data):
            rest = data[start : start + 40]
            raise ValueError(f"tar shard {path} has a damaged extended header: {rest!r}")
        key, _, value = data[start:end].rstrip(b"\n").partition(b" ")[2].partition(b"=")
        entries[os.fsdecode(key)] = os.fsdecode(value)
        start = end
    return entries
