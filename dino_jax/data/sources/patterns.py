"""Files that match a pattern: no folder is left out without a word.

`glob.glob` takes a folder that it may not list for an empty one, and follows links that lead in
circles 40 times each.
"""

import errno
import fnmatch
import os
import sys
from collections import deque
from collections.abc import Iterator

from dino_jax.data.sources.image_files import IMAGE_SUFFIXES
from dino_jax.foreign.files import file_system, is_remote
from dino_jax.foreign.names import printable

SYSTEM_FOLDER = "lost+found"  # at the top of every ext file system; only root may list it
_WILDCARDS = frozenset("*?[")
_NO_FOLDER = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def is_pattern(path: str) -> bool:
    """Whether `path` has a wildcard: *, ? or [."""
    return not _WILDCARDS.isdisjoint(path)


def match_files(pattern: str) -> list[str]:
    """Sorted paths that match a glob pattern.

    `**` spans folders, each once, however many links lead to it; hidden files don't match `*`.

    Raises:
      OSError: if a folder can't be listed, as in `pass_over`.
    """
    if not is_remote(pattern):
        return sorted(_match_local(pattern))
    store, inner = file_system(pattern)
    scheme = pattern.partition("://")[0]
    return sorted(f"{scheme}://{name.lstrip('/')}" for name in store.glob(inner))


def pass_over(error: OSError) -> None:
    """Decides about a folder that can't be listed: a line for `SYSTEM_FOLDER`, else an error.

    Args:
      error: of the system; names the folder.

    Raises:
      OSError: of the same kind; names the folder and what to do.
    """
    folder = os.fspath(error.filename or "")
    if isinstance(error, PermissionError) and SYSTEM_FOLDER in folder.split("/"):
        said = f"note: {printable(folder)} is passed over: it may not be listed"
        print(said, file=sys.stderr, flush=True)
        return
    raise type(error)(
        f"the folder {folder!r} can't be listed ({error.strerror}), so its images would be "
        "missing; change its permissions, or leave it out by a pattern or a list"
    ) from error


def _match_local(pattern: str) -> set[str]:
    found, parts = {""}, pattern.split("/")
    if not parts[0]:
        found, parts = {"/"}, parts[1:]
    if parts[-1] == "**":
        parts.append("*")
    for place, part in enumerate(parts):
        is_last = place == len(parts) - 1
        if part == "**":
            found = {below for folder in found for below in _visible_folders(folder)}
        elif is_pattern(part):
            found = {name for folder in found for name in _matches(folder, part, is_last)}
        else:
            found = {_inside(folder) + part for folder in found}
            found = set(filter(_exists, found)) if is_last else found
    return found


def _matches(folder: str, part: str, is_last: bool) -> Iterator[str]:
    """What matches in one folder; folders only, where more parts follow."""
    for entry in _entries(folder) or ():
        is_shown = part.startswith(".") or not entry.name.startswith(".")
        if is_shown and fnmatch.fnmatch(entry.name, part) and (is_last or _may_be_folder(entry)):
            yield _inside(folder) + entry.name


def _visible_folders(root: str) -> Iterator[str]:
    """`root`, "" for the current folder, and the folders below it, links last; each once."""
    seen: set[tuple[int, int]] = set()
    waiting, links = deque([root]), deque[str]()
    while waiting or links:
        folder = waiting.popleft() if waiting else links.popleft()
        try:
            status = os.stat(folder or ".")  # noqa: PTH116
        except OSError as error:
            if error.errno not in _NO_FOLDER:
                pass_over(error)
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        if (entries := _entries(folder)) is None:
            continue
        yield folder
        for entry in sorted(entries, key=lambda entry: entry.name):
            if not entry.name.startswith(".") and _may_be_folder(entry):
                (links if entry.is_symlink() else waiting).append(_inside(folder) + entry.name)


def _entries(folder: str) -> list[os.DirEntry[str]] | None:
    """What is in a folder; None if it is none, or is passed over."""
    try:
        with os.scandir(folder or ".") as found:
            return list(found)
    except OSError as error:
        if error.errno not in _NO_FOLDER:
            pass_over(error)
        return None


def _may_be_folder(entry: os.DirEntry[str]) -> bool:
    """A link that may lead to a folder is one, so that it is tried; links in a circle are none."""
    try:
        return entry.is_dir()
    except OSError as error:
        is_image = entry.name.lower().endswith(IMAGE_SUFFIXES)  # by its name; it is read later
        return error.errno not in _NO_FOLDER and not is_image


def _exists(path: str) -> bool:
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno not in _NO_FOLDER:
            pass_over(error)
        return False
    return True


def _inside(folder: str) -> str:
    return folder if folder in ("", "/") else f"{folder}/"
