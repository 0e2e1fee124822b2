"""Image files that a text file or a pattern names."""

import codecs
import os
from pathlib import Path

from etils import epath

from dino_jax.data.sources.base import index_labels, label_by_folder
from dino_jax.data.sources.image_files import IMAGE_SUFFIXES, ImageFiles
from dino_jax.data.sources.patterns import is_pattern, match_files
from dino_jax.foreign.files import STORES, is_remote, read_bytes

MAX_LIST_BYTES = 1 << 30  # of a text file of paths; some ten million lines


class ListSource(ImageFiles):
    """The images that a text file names, one per line, in its order.

    A line is a path, or a path, a tab and a label: a class index or a class name. Relative paths
    start at the folder of the text file. Empty lines are skipped, and so is a byte order mark.
    """

    def __init__(self, path: str | os.PathLike):
        """Reads the list, local or remote; the images are not checked before they are read.

        Raises:
          FileNotFoundError: if there is no such list.
          OSError: if it is larger than `MAX_LIST_BYTES`.
          ValueError: if it names nothing, a line has more than one tab, an empty path or a NUL, or
            is an address that is not in a store of objects.
        """
        file = epath.Path(path).expanduser()
        if not file.is_file():
            raise FileNotFoundError(
                f"image list {os.fspath(file)!r} does not exist or is not a file; pass a text file "
                "with one path per line, optionally followed by a tab and a label"
            )
        names, labels, schemes = [], [], set[str]()
        data = read_bytes(file, MAX_LIST_BYTES).removeprefix(codecs.BOM_UTF8)
        for number, line in enumerate(data.splitlines(), start=1):
            if not line.strip():
                continue
            name, *rest = os.fsdecode(line).split("\t")
            if len(rest) > 1 or not name.strip() or "\0" in name:
                raise ValueError(
                    f"line {number} of {os.fspath(file)!r} must be PATH or PATH<tab>LABEL, in "
                    f"UTF-8; got {os.fsdecode(line)[:200]!r}"
                )
            if is_remote(name) and (scheme := name.partition("://")[0]) not in schemes:
                _require_store(scheme, f"line {number} of {os.fspath(file)!r}")
                schemes.add(scheme)
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
          OSError: if a folder can't be listed.
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


def _require_store(scheme: str, where: str) -> None:
    """Checks that images of an address can be read, before a run depends on it.

    Raises:
      ValueError: if it is no store of objects, or its package is missing.
    """
    import fsspec

    if scheme not in STORES:
        raise ValueError(
            f"{where} begins with {scheme}://; images are read from local paths (without file://) "
            f"and from {', '.join(f'{store}://' for store in STORES)}; download others first"
        )
    try:
        fsspec.get_filesystem_class(scheme)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{where} begins with {scheme}://: {error}") from error


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
