"""Image files that a text file or a pattern names."""

import os
from pathlib import Path

from etils import epath

from dino_jax.data.sources.base import index_labels, label_by_folder
from dino_jax.data.sources.image_files import IMAGE_SUFFIXES, ImageFiles
from dino_jax.data.sources.storage import is_pattern, match_files
from dino_jax.workdir.paths import is_remote


class ListSource(ImageFiles):
    """The images that a text file names, one per line, in its order.

    A line is a path, or a path, a tab and a label: a class index or a class name. Relative paths
    start at the folder of the text file. Empty lines are skipped.
    """

    def __init__(self, path: str | os.PathLike):
        """Reads the list, local or remote; the images are not checked before they are read.

        Raises:
          FileNotFoundError: if there is no such list.
          ValueError: if it names nothing, or a line has more than one tab or an empty path.
        """
        file = epath.Path(path).expanduser()
        if not file.is_file():
            raise FileNotFoundError(
                f"image list {os.fspath(file)!r} does not exist or is not a file; pass a text file "
                "with one path per line, optionally followed by a tab and a label"
            )
        names, labels = [], []
        for number, line in enumerate(file.read_bytes().splitlines(), start=1):
            if not line.strip():
                continue
            name, *rest = os.fsdecode(line).split("\t")
            if len(rest) > 1 or not name.strip():
                raise ValueError(
                    f"line {number} of {os.fspath(file)!r} must be PATH or PATH<tab>LABEL, got "
                    f"{os.fsdecode(line)!r}"
                )
            names.append(name)
            labels.append(rest[0].strip() or None if rest else None)
        if not names:
            raise ValueError(f"image list {os.fspath(file)!r} names no images")
        super().__init__(os.fspath(file.parent), names, *index_labels(labels))


class GlobSource(ImageFiles):
    """All files that match a pattern, sorted; `**` spans folders, hidden files need a literal dot.

    The suffix does not matter. Labels are as for a folder: the first-level folders below the part
    of the pattern that has no wildcard, if every file lies in one.
    """

    def __init__(self, pattern: str):
        """Lists the files, local or remote.

        Raises:
          FileNotFoundError: if no file matches.
        """
        if not is_remote(pattern):
            pattern = str(Path(pattern).expanduser())
        names = [name for name in match_files(pattern) if _is_file(name)]
        if not names:
            raise FileNotFoundError(
                f"no file matches {pattern!r}; a pattern looks like '/data/train/**/*.jpg' "
                "(in quotes, so that the shell leaves it alone)"
            )
        root = _fixed_folder(pattern)
        names = [name.removeprefix(f"{root}/") if root else name for name in names]
        super().__init__(root or ".", names, *label_by_folder(names))


def _is_file(name: str) -> bool:
    """A name with an image suffix is taken for a file, to avoid a million checks."""
    return name.lower().endswith(IMAGE_SUFFIXES) or epath.Path(name).is_file()


def _fixed_folder(pattern: str) -> str:
    """The folders of a pattern before its first wildcard."""
    parts = pattern.split("/")[:-1]
    fixed = 0
    while fixed < len(parts) and not is_pattern(parts[fixed]):
        fixed += 1
    return "/".join(parts[:fixed])
