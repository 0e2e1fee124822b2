"""Images that are one file each: shared code of folders, lists and patterns."""

from collections.abc import Sequence

import numpy as np

from dino_jax.data.sources.base import UNLABELED, Contents, PackedNames, Record, digest_labels
from dino_jax.foreign.files import MAX_IMAGE_BYTES, is_remote, read_bytes
from dino_jax.foreign.names import printable

IMAGE_SUFFIXES = (
    ".bmp",
    ".gif",
    ".jpeg",
    ".jpg",
    ".npy",
    ".pfm",
    ".pgm",
    ".png",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)


class ImageFiles:
    """Files by name below one root; names that are absolute or an address stand for themselves."""

    def __init__(
        self, root: str, names: Sequence[str], class_names: tuple[str, ...], labels: np.ndarray
    ):
        self._root = root.rstrip("/")
        self._files = PackedNames(names)
        self.class_names, self._labels = class_names, labels

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Record:
        return {
            "image": read_bytes(self.path(index), MAX_IMAGE_BYTES),
            "label": int(self._labels[index]),
            "name": self._files[index],
        }

    def name(self, index: int) -> str:
        """The file's path, printable."""
        return printable(self.path(index))

    def file(self, index: int) -> str:
        """The file's path below the root."""
        return self._files[index]

    def class_of(self, index: int) -> str | None:
        """The name of the image's class; None without one."""
        label = int(self._labels[index])
        return None if label == UNLABELED else self.class_names[label]

    def path(self, index: int) -> str:
        """The file's path, as the system takes it."""
        name = self._files[index]
        return name if name.startswith("/") or is_remote(name) else f"{self._root}/{name}"

    def contents(self) -> Contents:
        """Names and labels; a size would cost a request per file."""
        return Contents(len(self), self._files, digest_labels(self.class_names, self._labels))
