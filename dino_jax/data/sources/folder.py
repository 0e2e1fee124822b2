"""A folder of images, local or in an object store."""

import os
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from dino_jax.data.sources.base import label_by_folder
from dino_jax.data.sources.image_files import IMAGE_SUFFIXES, ImageFiles
from dino_jax.data.sources.patterns import pass_over
from dino_jax.foreign.files import is_remote


class FolderSource(ImageFiles):
    """All images below a folder, at any depth, sorted by relative path.

    Files count by suffix (`IMAGE_SUFFIXES`, any case). Hidden files and folders are skipped, links
    to folders are not followed, links to files only when they stay inside the folder. If every
    image lies in a sub-folder, the first-level folders are the classes; else there are no labels.
    """

    def __init__(self, path: str | os.PathLike):
        """Lists the folder, which may be local or remote (gs://, which needs gcsfs).

        Raises:
          FileNotFoundError: if there is no such folder.
          OSError: if a folder in it can't be listed.
          ValueError: if it holds no images.
        """
        root = epath.Path(path).expanduser()
        place = os.fspath(root)
        if not root.is_dir():
            raise FileNotFoundError(
                f"image folder {place!r} does not exist or is not a folder; pass the path of a "
                "folder with images (sub-folders are searched)"
            )
        files = list(_list_remote(root) if is_remote(place) else _list_local(place))
        names = sorted(name for name in files if name.lower().endswith(IMAGE_SUFFIXES))
        if not names:
            raise ValueError(
                f"image folder {place!r} holds no images: {len(files)} other files were seen; "
                f"suffixes that count are {', '.join(IMAGE_SUFFIXES)} (hidden files and symbolic "
                "links that lead outside the folder do not)"
            )
        super().__init__(place, names, *label_by_folder(names))


def _list_local(root: str) -> Iterator[str]:
    """Relative paths, with "/", of all visible files whose real place is inside `root`.

    What an entry is stands in its folder: a million files are not asked one by one.
    """
    inside, waiting = _real(root), [(root, "")]
    while waiting:
        folder, prefix = waiting.pop()
        for entry in _entries(folder):
            name = entry.name
            if name[0] == ".":
                continue
            if _is_folder(entry):
                if not entry.is_symlink():
                    waiting.append((entry.path, f"{prefix}{name}/"))
            elif not entry.is_symlink() or _real(entry.path).is_relative_to(inside):
                yield prefix + name


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        pass_over(error)
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is one, or a link to one; what cannot be looked at is not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _real(path: str) -> Path:
    """Without links; links in a circle stay, and can't be read. Path.resolve raises for them."""
    return Path(os.path.realpath(path))


def _list_remote(root: epath.Path, prefix: str = "") -> Iterator[str]:
    """Like `_list_local`, for an object store; a name with an image suffix is taken for a file."""
    for entry in root.iterdir():
        if entry.name.startswith("."):
            continue
        if not entry.name.lower().endswith(IMAGE_SUFFIXES) and entry.is_dir():
            yield from _list_remote(entry, f"{prefix}{entry.name}/")
        else:
            yield f"{prefix}{entry.name}"
