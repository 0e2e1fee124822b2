"""Keeps compiled programs for the next start: JAX's persistent cache, with a place and a bound.

JAX names the file of a program by the program, its own version, the flags and the features of the
processor or accelerator, so that different machines may share a folder. It writes a file in place
and never again once it exists: one that was torn by a crash would cost a warning and a compilation
at every start, so such files are removed, if they are of zlib: jax takes zstandard in its place
where that package is installed. On gs:// a write happens as a whole or not at all.
"""

import contextlib
import os
import sys
import zlib
from pathlib import Path
from typing import Any

import jax
from etils import epath
from jax.experimental.compilation_cache import compilation_cache

from dino_jax.commands import false_alarms
from dino_jax.workdir.layout import COMPILED
from dino_jax.workdir.paths import absolute_path, is_remote, user_cache

AUTO = "auto"
LIMIT = 2 << 30  # bytes of a folder; the programs that were not used for longest go first
_LOOKED = ".looked"  # its time is that of the last look for torn files
_PROGRAM = "*-cache"  # as jax names them
_ZLIB = b"\x78"  # first byte; jax takes zstandard if that package is installed


def keep_programs(setting: str = AUTO, workdir: epath.PathLike | None = None) -> str:
    """Chooses the folder of compiled programs; call it once all processes are joined.

    JAX_COMPILATION_CACHE_DIR, JAX_COMPILATION_CACHE_MAX_SIZE and JAX_ENABLE_COMPILATION_CACHE work
    as always; the first goes before "auto".

    Args:
      setting: a folder, local or gs://, "" for none, or "auto": the user's cache folder, and
        `workdir` where other machines shall find the programs.
      workdir: workdir of a run, if any.

    Returns:
      A line about what is kept where, or why not.

    Raises:
      OSError: if the folder that `setting` names cannot be written; that of the environment may be
        one that others fill.
    """
    reason = _why_not(setting)
    if reason:
        _set_folder(None)
        return f"not kept: {reason}"
    from_environment = _read("jax_compilation_cache_dir") if setting == AUTO else None
    chosen = from_environment or (setting if setting != AUTO else _usual_folder(workdir))
    if chosen is None:
        return "not kept: neither ~/.cache nor the folder for temporary files can be written"
    folder = absolute_path(chosen)
    fault = _make(folder)
    if fault and not from_environment:
        raise OSError(
            f"the folder of compiled programs {os.fspath(folder)!r} cannot be used: {fault}; "
            "give runtime.compilation_cache another one, or '' for none"
        )
    _set_folder(os.fspath(folder))
    # Also programs that compile in less than a second (jax's own bound): a run has dozens of them,
    # and a second start should compile nothing.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if is_remote(folder):  # XLA writes its own caches for GPUs to local folders only
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    if fault:  # jax reads what is there, and warns for itself
        return f"programs read from {folder}, none written: {fault}"
    if jax.process_index() == 0:
        tidy(folder)
    return f"programs in {folder}"


def say_programs() -> None:
    """Chooses the usual folder and says which, on stderr; for commands without a config."""
    line = keep_programs()
    if jax.process_index() == 0:
        print(f"compiled    {line}", file=sys.stderr)


def tidy(folder: epath.Path, limit: int = LIMIT) -> None:
    """Removes torn files, and the programs that were not used for longest while all are too many.

    Args:
      folder: folder of programs, which other processes may be using: what they lose is compiled
        again.
      limit: bytes.
    """
    with contextlib.suppress(OSError):  # a file that another process has just removed, …
        if not is_remote(folder):
            _remove_torn(Path(folder))
        if _read("jax_compilation_cache_max_size") == -1:  # else jax keeps its bound itself
            _remove_oldest(folder, limit)


def _why_not(setting: str) -> str:
    """Why programs cannot be kept; "" if they can."""
    if not setting:
        return "runtime.compilation_cache is ''"
    if not _read("jax_enable_compilation_cache"):
        return "jax_enable_compilation_cache is off"
    if jax.default_backend() != "cpu":
        return ""
    if jax.device_count() > 1:
        # A CPU program that is read from the cache (jaxlib 0.10.2) has forgotten in which order its
        # collectives come: each device may begin with another one, and all wait for ever.
        return "programs of several CPU devices hang when they are read again"
    if not false_alarms.hidden():
        return (
            "XLA would report an error for each program that it reads, as TF_CPP_MIN_LOG_LEVEL is "
            "below 3 or jax was imported before dino_jax"
        )
    return ""


def _usual_folder(workdir: epath.PathLike | None) -> epath.Path | None:
    """The user's folder, or one in the workdir where that is gone or unknown to other machines."""
    if workdir is not None and (jax.process_count() > 1 or is_remote(workdir)):
        return absolute_path(workdir) / COMPILED
    cache = user_cache()
    return epath.Path(cache) / COMPILED if cache else None


def _read(option: str) -> Any:
    return getattr(jax.config, option)


def _set_folder(folder: str | None) -> None:
    if _read("jax_compilation_cache_dir") != folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        compilation_cache.reset_cache()  # jax reads the option once


def _make(folder: epath.Path) -> OSError | None:
    """Makes a folder; what prevents programs from being written there, if anything."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not is_remote(folder) and not os.access(folder, os.W_OK):
            return PermissionError("it cannot be written")
    except OSError as error:
        return error
    return None


def _remove_torn(folder: Path) -> None:
    mark = folder / _LOOKED
    last = mark.stat().st_mtime_ns if mark.exists() else 0
    mark.touch()
    for path in folder.glob(_PROGRAM):
        if path.stat().st_mtime_ns >= last and _is_torn(path.read_bytes()):
            path.unlink()


def _is_torn(data: bytes) -> bool:
    if data and not data.startswith(_ZLIB):
        return False  # of zstandard
    decompress = zlib.decompressobj()
    try:
        decompress.decompress(data)
    except zlib.error:
        return True
    return not decompress.eof


def _remove_oldest(folder: epath.Path, limit: int) -> None:
    found = {path: _size_and_use(path) for path in folder.glob(_PROGRAM)}
    total = sum(size for size, _ in found.values())
    for path in sorted(found, key=lambda path: found[path][1]):
        if total <= limit:
            return
        total -= found[path][0]
        path.unlink(missing_ok=True)


def _size_and_use(path: epath.Path) -> tuple[int, float]:
    """Bytes of a file, and when it was last read or written, where the store knows the former."""
    if is_remote(path):
        stat = path.stat()
        return stat.length, stat.mtime or 0
    local = Path(path).stat()
    return local.st_size, max(local.st_mtime, local.st_atime)
