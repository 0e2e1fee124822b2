"""Files that others made: regular files only, and never more bytes than the reader expects.

A folder or a list from outside may name anything: a pipe on which a read waits for ever, a device
that never ends, a sparse file of terabytes. Input workers import this module: it needs no jax.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

MAX_IMAGE_BYTES = 1 << 30  # of one encoded image; 179 million pixels in 8-bit RGB are 537 MB
MAX_TEXT_BYTES = 1 << 28  # of a text; lists of training images may be longer
_PIECE_BYTES = 1 << 26
# What a small image needs while it is decoded, several times over.
_SMALL_IMAGE_BYTES = 1 << 26
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}
# Stores of objects; other addresses that fsspec knows, such as http://, are not images' places.
STORES = ("gs", "gcs", "s3", "s3a", "az", "abfs", "abfss", "adl", "oci", "hdfs")


def is_remote(path: str | os.PathLike) -> bool:
    """Whether `path` is an address such as gs://bucket/run, and not in the local file system."""
    return "://" in os.fspath(path)


def file_system(path: str) -> tuple[Any, str]:
    """The fsspec file system of a remote path, and the path within it.

    Raises:
      OSError: if the scheme is unknown, is that of local files, or its package is missing.
    """
    import fsspec

    try:
        store, inner = fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as error:
        raise OSError(f"{path} can't be opened: {error}") from error
    if "file" in ((store.protocol,) if isinstance(store.protocol, str) else store.protocol):
        raise OSError(f"{path} is a file of this machine: write its path without file://")
    return store, inner


def open_regular(path: str | os.PathLike) -> BinaryIO:
    """Opens a file for reading at any position; never waits for a writer.

    Raises:
      OSError: if it can't be opened, or is a pipe, a socket, a device or a folder.
    """
    place = os.fspath(path)
    if is_remote(place):
        store, inner = file_system(place)
        with remote_errors(place):
            return store.open(inner, "rb")
    return os.fdopen(open_regular_descriptor(place), "rb")


def require_regular(path: str | os.PathLike) -> None:
    """Checks a local path that a library will open itself; a remote one holds objects only.

    Raises:
      OSError: as `open_regular`.
    """
    if not is_remote(path):
        os.close(open_regular_descriptor(os.fspath(path)))


def read_bytes(path: str | os.PathLike, most: int) -> bytes:
    """Reads a whole file.

    Args:
      path: local, or the address of an object.
      most: bytes that the file may have; a larger one is not read.

    Raises:
      OSError: as `open_regular`; if the file is larger; or if there is no memory for it.
    """
    place = os.fspath(path)
    try:
        if is_remote(place):
            return _read_object(place, most)
        descriptor = open_regular_descriptor(place)
        try:
            size = os.fstat(descriptor).st_size
            _require_size(size, most, place)
            return read_range(descriptor, 0, size)
        finally:
            os.close(descriptor)
    except MemoryError as error:
        require_memory()
        raise OSError(f"{place!r} needs more memory than there is") from error


def read_text(path: str | os.PathLike, most: int = MAX_TEXT_BYTES) -> str:
    """Reads a whole text file in UTF-8.

    Raises:
      OSError: as `read_bytes`.
      ValueError: if it is not UTF-8; names it.
    """
    try:
        return read_bytes(path, most).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{os.fspath(path)!r} is not a text in UTF-8: {error}") from error


def read_range(descriptor: int, offset: int, size: int) -> bytes:
    """Reads `size` bytes from `offset`; fewer where the file ends.

    `os.pread` may return less than asked for (network file systems, over 2 GiB), and takes memory
    for all that it is asked for.
    """
    pieces = []
    while size > 0 and (piece := os.pread(descriptor, min(size, _PIECE_BYTES), offset)):
        pieces.append(piece)
        offset, size = offset + len(piece), size - len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def require_memory() -> None:
    """Tells one file that asks for too much from a machine that has nothing left.

    Raises:
      MemoryError: if there is not even the memory for a small image.
    """
    try:
        bytearray(_SMALL_IMAGE_BYTES)
    except MemoryError as error:
        raise MemoryError(
            f"out of memory: less than {_SMALL_IMAGE_BYTES >> 20} MiB are left to this process; "
            "use fewer workers or threads, or smaller batches"
        ) from error


@contextmanager
def remote_errors(place: str) -> Iterator[None]:
    """Packages of stores have errors of their own; for a reader each is an OSError."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise OSError(f"{place} can't be read: {type(error).__name__}: {error}") from error


def open_regular_descriptor(place: str) -> int:
    """`open_regular` for a local path, as a descriptor that the caller closes."""
    try:
        _require_regular(os.stat(place).st_mode, place)  # noqa: PTH116, opening a device may do harm
        descriptor = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a NUL, or text that is no name in the file system
        raise OSError(f"{place!r} is not a path: {error}") from error
    try:
        _require_regular(os.fstat(descriptor).st_mode, place)  # it may be another one by now
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _read_object(place: str, most: int) -> bytes:
    """An object as a whole: a range may not begin beyond its end, and none of an empty one does."""
    store, inner = file_system(place)
    with remote_errors(place):
        status = store.info(inner)
        if status.get("type") == "directory":
            raise OSError(f"{place!r} is a folder, not a file")
        size = status.get("size")  # None where a store can't tell before it reads
        _require_size(size or 0, most, place)
        data = b"" if size == 0 else store.cat_file(inner)
    _require_size(len(data), most, place)
    return data


def _require_regular(mode: int, place: str) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise OSError(f"{place!r} is {kind}, not a file")


def _require_size(size: int, most: int, place: str) -> None:
    if size > most:
        raise OSError(f"{place!r} has {size:,} bytes, more than the {most:,} that are read")
