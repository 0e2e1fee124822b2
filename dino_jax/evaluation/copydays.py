"""The Copydays data set (INRIA), in its published layout: copies of 157 photos.

FOLDER/original/200000.jpg, FOLDER/strong/200001.jpg, FOLDER/jpegqual/3/…, FOLDER/crops/10/…
"""

from collections.abc import Sequence
from typing import NamedTuple

from etils import epath

ORIGINAL, STRONG = "original", "strong"
BLOCKS = (
    STRONG,
    *(f"jpegqual/{quality}" for quality in (3, 5, 8, 10, 15, 20, 30, 50, 75)),
    *(f"crops/{percent}" for percent in (10, 15, 20, 30, 40, 50, 60, 70, 80)),
)
PREFIX = 4  # characters of a name that a strong attack shares with its original


class Block(NamedTuple):
    """The copies of one kind.

    Attributes:
      name: such as "jpegqual/3".
      files: sorted.
      originals: for each file, the originals of which it is a copy.
    """

    name: str
    files: list[str]
    originals: list[list[int]]


class Copydays(NamedTuple):
    """A data set: N files of originals, and its blocks of copies."""

    originals: list[str]
    blocks: list[Block]


def read_copydays(folder: str) -> Copydays:
    """Lists the files.

    Args:
      folder: local or gs://.

    Raises:
      OSError: if the originals or all blocks are missing.
      ValueError: if a block does not have one file per original, or a strong attack has no
        original.
    """
    root = epath.Path(folder).expanduser()
    originals = _list_jpg(root / ORIGINAL)
    found = {name: _list_jpg(root / name) for name in BLOCKS}
    if not originals or not any(found.values()):
        raise FileNotFoundError(
            f"{root} holds {len(originals)} originals and {sum(map(len, found.values()))} copies; "
            f"--data=FOLDER is the folder with {ORIGINAL}/, {STRONG}/, jpegqual/ and crops/, whose "
            "files end in .jpg"
        )
    blocks = [
        Block(name, files, _match_strong(files, originals))
        if name == STRONG
        else Block(name, files, _match_in_order(name, files, originals))
        for name, files in found.items()
        if files
    ]
    return Copydays(originals, blocks)


def _list_jpg(folder: epath.Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(str(path) for path in folder.iterdir() if path.name.lower().endswith(".jpg"))


def _match_strong(files: Sequence[str], originals: Sequence[str]) -> list[list[int]]:
    prefixes = [epath.Path(path).name[:PREFIX] for path in originals]
    matches = []
    for path in files:
        prefix = epath.Path(path).name[:PREFIX]
        matches.append([i for i, other in enumerate(prefixes) if other == prefix])
        if not matches[-1]:
            raise ValueError(f"{path} is a copy of nothing: no original begins with {prefix!r}")
    return matches


def _match_in_order(name: str, files: Sequence[str], originals: Sequence[str]) -> list[list[int]]:
    if len(files) != len(originals):
        raise ValueError(
            f"{name} has {len(files)} images for {len(originals)} originals; they belong together "
            "in the order of their names, one for each"
        )
    return [[index] for index in range(len(files))]
