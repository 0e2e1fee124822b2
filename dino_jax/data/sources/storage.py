"""Files on local disks and in object stores (gs://, s3:// and others through fsspec)."""

import glob
import io
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, TypeVar

from dino_jax.data.sources.patterns import match_files
from dino_jax.foreign.files import (
    MAX_IMAGE_BYTES,
    file_system,
    is_remote,
    open_regular_descriptor,
    read_range,
    remote_errors,
)

MAX_OPEN_FILES = 200  # of one source in one process, of the usual 1,024; opening takes 0.1 ms
_OPENING_THREADS = 16

Handle = TypeVar("Handle")
Item = TypeVar("Item")
Result = TypeVar("Result")


def find_shards(path: str, suffix: str) -> list[str]:
    """The shards of a data set, sorted by name.

    Args:
      path: one file, a folder (all files in it with the suffix) or a glob pattern.
      suffix: such as ".tar".

    Raises:
      FileNotFoundError: if there are none.
    """
    path = path if is_remote(path) else str(Path(path).expanduser())
    if _is_folder(path):
        shards = match_files(f"{glob.escape(path.rstrip('/'))}/*{suffix}")
    else:
        shards = match_files(glob.escape(path)) or match_files(path)
    if not shards:
        raise FileNotFoundError(
            f"no shards at {path!r}: pass a {suffix} file, a folder that holds {suffix} files, or "
            f"a pattern such as 'folder/train-*{suffix}'"
        )
    return shards


def file_sizes(shards: Sequence[str]) -> list[int]:
    """Bytes of each shard; [] in an object store, where each would cost a request."""
    if any(map(is_remote, shards)):
        return []
    return [Path(shard).stat().st_size for shard in shards]


def map_in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Results in order, for work that waits for storage."""
    with ThreadPoolExecutor(_OPENING_THREADS) as pool:
        return list(pool.map(function, items))


class HandleCache(Generic[Handle]):
    """The most recently used handles of this process, opened when they are needed.

    Safe for threads. A pickled or forked copy starts empty: handles belong to one process. An
      evicted handle is left to the garbage collector, because another thread may still use it.
    """

    def __init__(self, open_handle: Callable[[Any], Handle], limit: int):
        """`open_handle(key)` opens one, and must be picklable; `limit` are kept."""
        self._open, self._limit = open_handle, limit
        self._reset()

    def __getitem__(self, key: Hashable) -> Handle:
        if self._process != os.getpid():
            self._reset()
        with self._lock:
            if key not in self._handles:
                self._handles[key] = self._open(key)
            self._handles.move_to_end(key)
            while len(self._handles) > self._limit:
                self._handles.popitem(last=False)
            return self._handles[key]

    def _reset(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._handles: OrderedDict[Hashable, Handle] = OrderedDict()

    def __getstate__(self) -> tuple[Callable[[Any], Handle], int]:
        return self._open, self._limit

    def __setstate__(self, state: tuple[Callable[[Any], Handle], int]) -> None:
        self._open, self._limit = state
        self._reset()


class ByteRanges:
    """Reads pieces of files without a shared position, so that threads need not wait."""

    def __init__(self) -> None:
        self._files = HandleCache(_open_unbuffered, MAX_OPEN_FILES)

    def read(self, path: str, offset: int, size: int) -> bytes:
        """Reads `size` bytes from `offset`.

        Raises:
          OSError: if the file can't be read or ends too early, or the piece is larger than an image
            may be.
        """
        if not 0 <= size <= MAX_IMAGE_BYTES:
            raise OSError(f"{size:,} bytes of {path} are no image: at most {MAX_IMAGE_BYTES:,}")
        if size == 0:  # no range of bytes is empty: a store would send all, or refuse
            return b""
        if is_remote(path):
            store, inner = file_system(path)
            with remote_errors(path):
                data = store.cat_file(inner, start=offset, end=offset + size)
        else:
            data = read_range(self._files[path].fileno(), offset, size)
        if len(data) != size:
            raise OSError(f"{path} ends {size - len(data)} bytes too early")
        return data


def _open_unbuffered(path: str) -> io.FileIO:
    return io.FileIO(open_regular_descriptor(path))


def _is_folder(path: str) -> bool:
    if not is_remote(path):
        return Path(path).is_dir()
    store, inner = file_system(path)
    return store.isdir(inner)
