"""The protocol of image sources: random access to encoded files, with optional labels."""

import bisect
import functools
import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, Protocol, TypedDict

import numpy as np

from dino_jax.data.decoding import Decoding

UNLABELED = -1
MAX_CLASSES = 1_000_000
_INDEX = re.compile(r"-?\d{1,19}")  # longer numbers, such as those of hashes, are names


class Record(TypedDict):
    """One entry of a source.

    Attributes:
      image: an encoded file or pixels [H, W, C], or a list of such: the frames of one clip in their
        order, of which crops choose (`CropConfig.frame`) and evaluations take the first.
      label: class index, or -1.
      name: the image's name inside its source, such as "cat/1.jpg"; need not be unique.
      decoding: how the image becomes pixels, unless that is `decoding.RGB`.
    """

    image: bytes | np.ndarray | list[bytes | np.ndarray]
    label: int
    name: str
    decoding: NotRequired[Decoding]


class ImageSource(Protocol):
    """Random access to images; picklable, safe to read from several threads and processes.

    Attributes:
      class_names: the name of each label, () when there are no labels.
    """

    class_names: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """Reads record `index`; raises OSError when it can't be read."""
        ...

    def name(self, index: int) -> str:
        """Location of record `index` for messages, see `names.printable`; reads nothing."""
        ...


class PackedNames:
    """Many strings in one buffer: lists of a million `str` would cost every worker 100 MB."""

    def __init__(self, names: Sequence[str]):
        encoded = [os.fsencode(name) for name in names]
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self._buffer = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        start = self._ends[index - 1] if index else 0
        return os.fsdecode(self._buffer[start : self._ends[index]])

    @staticmethod
    def joined(parts: Sequence["PackedNames"]) -> "PackedNames":
        """The names of several as one."""
        whole = PackedNames(())
        sizes = np.cumsum([0, *(len(part._buffer) for part in parts)])
        ends = [part._ends + size for part, size in zip(parts, sizes, strict=False)]
        whole._ends = np.concatenate([whole._ends, *ends])
        whole._buffer = b"".join(part._buffer for part in parts)
        return whole

    def digest(self, start: int, stop: int) -> bytes:
        """16 bytes that tell names `start` to `stop` - 1 from others, and from another order."""
        ends = self._ends[start:stop]
        first = self._ends[start - 1] if start else 0
        digest = hashlib.blake2b(np.diff(ends, prepend=first).tobytes(), digest_size=16)
        digest.update(memoryview(self._buffer)[first : ends[-1] if len(ends) else first])
        return digest.digest()


@dataclass(frozen=True)
class Contents:
    """What a source holds, as far as it knows without reading images.

    Attributes:
      images: number of images.
      names: names of the images in their order, or of the files that hold them.
      details: what else tells these images from others, such as sizes and labels; as JSON.
    """

    images: int
    names: PackedNames
    details: Any = ()

    @functools.cached_property
    def digest(self) -> str:
        """12 hexadecimal digits that tell these contents from others."""
        names = self.names.digest(0, len(self.names))
        details = json.dumps([self.images, self.details])
        return hashlib.blake2b(names + details.encode(), digest_size=6).hexdigest()


class Blocks:
    """Maps an index to its place in consecutive blocks of given sizes."""

    def __init__(self, sizes: Sequence[int]):
        self._ends = np.cumsum(sizes, dtype=np.int64).tolist()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def size(self, block: int) -> int:
        """Indices in one block."""
        return self._ends[block] - (self._ends[block - 1] if block else 0)

    def locate(self, index: int) -> tuple[int, int]:
        """The block of `index` and the place inside that block.

        Raises:
          IndexError: for an index outside 0 to len - 1.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside 0 to {len(self) - 1}")
        block = bisect.bisect_right(self._ends, index)
        return block, index - (self._ends[block - 1] if block else 0)


def index_labels(values: Sequence[int | str | None]) -> tuple[tuple[str, ...], np.ndarray]:
    """Class names and labels from the stored labels of a file format.

    Whole numbers (also as text) are class indices, and "0", "1", … up to the largest become the
    names. Anything else is a name, and the sorted names are numbered.

    Args:
      values: one per image; None or -1 for no label.

    Returns:
      The class names, () if no image has a label, and [len(values)] int32 labels.

    Raises:
      ValueError: if a class index is below -1 or above a million.
    """
    labels = np.full(len(values), UNLABELED, np.int32)
    texts = ["-1" if value is None else str(value).strip() for value in values]
    places = [place for place, text in enumerate(texts) if text != "-1"]
    texts = [texts[place] for place in places]
    if not texts:
        return (), labels
    if all(map(_INDEX.fullmatch, texts)):
        indices = [int(text) for text in texts]
        if min(indices) < 0 or max(indices) >= MAX_CLASSES:
            raise ValueError(
                f"class indices must be 0 to {MAX_CLASSES - 1}, got {min(indices)} to "
                f"{max(indices)}; leave the label out where there is none"
            )
        labels[places] = indices
        return tuple(str(index) for index in range(max(indices) + 1)), labels
    class_names, labels[places] = _number(texts)
    return class_names, labels


def label_by_folder(names: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """The first-level folders of relative paths as classes.

    Returns:
      Class names and [len(names)] int32 labels; ((), all -1) if a name has no folder.
    """
    folders = [name.partition("/")[0] for name in names if "/" in name]
    if len(folders) < len(names):
        return (), np.full(len(names), UNLABELED, np.int32)
    return _number(folders)


def digest_labels(class_names: Sequence[str], labels: np.ndarray) -> str:
    """What tells these labels from others."""
    digest = hashlib.blake2b(repr(tuple(class_names)).encode("utf-8", "replace"), digest_size=16)
    digest.update(np.ascontiguousarray(labels, np.int32).tobytes())
    return digest.hexdigest()


def _number(names: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """The sorted different names, and the place of each name among them, int32.

    Not by NumPy, whose arrays of texts take for each what the longest one needs.
    """
    different = sorted(set(names))
    places = {name: place for place, name in enumerate(different)}
    return tuple(different), np.array([places[name] for name in names], np.int32)
