"""Paths in the local file system and in object stores, and files written whole or not at all.

Input workers import this module: it needs no jax.
"""

import os
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from etils import epath

from dino_jax.foreign.files import file_system, is_remote


def absolute_path(path: epath.PathLike) -> epath.Path:
    """The path from the root, with "~" expanded (a shell leaves it in --workdir=~/run)."""
    path = epath.Path(path)
    return path if is_remote(path) else path.expanduser().absolute()


def user_cache() -> Path | None:
    """Folder for what this user's programs can make again; None if there is no place for it.

    It is dino_jax in XDG_CACHE_HOME or ~/.cache, where it may be a link to another disk, or else in
    the folder for temporary files. It belongs to the user and nobody else may write it, as what
    lies there is executed.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    own = None
    if Path(given).is_absolute():  # others are to be ignored, says the XDG specification
        own = Path(given, "dino_jax")
    else:
        with suppress(RuntimeError):  # a user without a home
            own = Path.home() / ".cache/dino_jax"
    if own is not None and _is_private(own, links=True):
        return own
    shared = Path(tempfile.gettempdir(), f"dino_jax-{os.getuid()}")
    return shared if _is_private(shared, links=False) else None


def _is_private(folder: Path, *, links: bool) -> bool:
    """Makes a folder if needed; whether this user alone can write it. Anybody may link in /tmp."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat(follow_symlinks=links)
    except OSError:
        return False
    alone = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    return alone and not found.st_mode & 0o022 and os.access(folder, os.W_OK | os.X_OK)


def make_writable(path: epath.Path, option: str = "--workdir") -> None:
    """Makes a directory, which an option names, and checks that it can be written.

    Raises:
      OSError: if it cannot be written, or is a file.
    """
    probe = path / f".writable.{uuid.uuid4().hex}"
    try:
        if path.exists() and not path.is_dir():
            raise NotADirectoryError("it is a file")
        path.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise OSError(
            f"{option.strip('-')} {os.fspath(path)!r} cannot be used: {error}. Give {option} a "
            "directory that this user can create and write."
        ) from error


@contextmanager
def folder_of_results(path: epath.PathLike) -> Iterator[None]:
    """Makes a folder; if the block fails before a file is in it, the folder goes again.

    So do the folders above it that had to be made, and only empty ones.
    """
    folder = epath.Path(path)
    if is_remote(path):  # there are no empty folders
        yield
        return
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # one that is not empty
            for place in made:
                place.rmdir()
        raise


def write_atomically(path: epath.PathLike, text: str) -> None:
    """Replaces a small file: a reader finds the old text or the new one, even after a crash.

    Several processes may write the same file; the last one wins. On gs:// a rename is a copy, but a
    write there is atomic by itself: it goes to `path` directly.
    """
    if is_remote(path):
        epath.Path(path).write_text(text)
        return
    with _replacing(Path(path), uuid.uuid4().hex) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def written_whole(target: epath.PathLike) -> Iterator[str]:
    """A local path to write to; it becomes `target` if the block succeeds, and is removed if not.

    One process may write a target at a time: files left by a killed process are overwritten, so
    that large files do not pile up. A remote target is uploaded at the end.
    """
    if not is_remote(target):
        with _replacing(Path(target), "part") as temporary:
            yield str(temporary)
        return
    address = os.fspath(target)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, address.rpartition("/")[2])
        yield str(path)
        store, inner = file_system(address)
        store.put_file(str(path), inner)


@contextmanager
def _replacing(path: Path, suffix: str) -> Iterator[Path]:
    """A hidden file beside `path`, which replaces it once its content is on disk."""
    temporary = path.with_name(f".{path.name}.{suffix}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.filename == os.fspath(temporary):
            error.filename = os.fspath(path)  # the name that the user knows
        raise
    finally:
        temporary.unlink(missing_ok=True)
