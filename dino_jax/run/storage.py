"""Faults of the storage below a workdir, in one line and with the right exit code.

Errors of storage come from many places: files that this program writes, Orbax's threads and
TensorStore's C++, whose errors are texts. What is wrong is read from the first error number among
them, and from the workdir itself. The newest whole checkpoint is not harmed by any of them.
"""

import errno
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
from absl import logging as absl_logging
from etils import epath

from dino_jax.processes.agreement import Agreement
from dino_jax.processes.ending import AGAIN
from dino_jax.workdir.checkpointing import checkpoint_steps
from dino_jax.workdir.layout import CONFIG_JSON
from dino_jax.workdir.paths import is_remote

GIVEN_UP = 1  # exit code

# Error numbers whatever the file: what is wrong, what to do, exit code.
_FAULTS = {
    errno.ENOSPC: ("no space is left", "make room", GIVEN_UP),
    errno.EDQUOT: ("the disk quota is used up", "make room", GIVEN_UP),
    errno.EFBIG: ("a file may not grow any more", "raise the limit (ulimit -f)", GIVEN_UP),
    errno.EROFS: ("the file system is read-only now", "make it writable", GIVEN_UP),
    errno.EIO: ("the disk has an error", "see the log of the machine", AGAIN),
    errno.ESTALE: ("the network file system has lost a file", "see its server", AGAIN),
    errno.ENOTCONN: ("the file system is not connected", "see its mount", AGAIN),
    errno.ENODEV: ("the disk is gone", "mount it again", AGAIN),
}
# Error numbers that mean the storage only if the file is one of the workdir.
_OF_THE_WORKDIR = {
    errno.ENOENT: ("files of it have been deleted", "put them back", GIVEN_UP),
    errno.ENOTDIR: ("a folder of it has been replaced", "put it back", GIVEN_UP),
    errno.EACCES: ("it may not be written any more", "give the right back", GIVEN_UP),
    errno.EPERM: ("it may not be written any more", "give the right back", GIVEN_UP),
}
_NUMBERS = re.compile(r"os_error_code='(\d+)'|\[Errno (\d+)\]|\[OS error (\d+)")

# Packages of stores, whose errors need not be OSErrors.
_STORES = (
    *("gcsfs.", "fsspec.", "s3fs.", "adlfs.", "aiohttp.", "aiobotocore.", "botocore.", "requests."),
    *("azure.", "google.api_core.", "google.auth.", "google.cloud.", "google.resumable_media."),
)


class StorageFaultError(Exception):
    """The workdir can no longer be written: the message says why and what to do.

    Attributes:
      exit_code: of the program.
    """

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


@contextmanager
def storage_faults(folder: epath.Path, agreement: Agreement) -> Iterator[None]:
    """Turns an error of the storage of a workdir into a StorageFaultError; others pass.

    Of several processes perhaps only one meets it, while the others wait for it in a step: all end
    at once with the same line and code.

    Args:
      folder: workdir.
      agreement: agreement of all processes.
    """
    try:
        yield
    except Exception as error:
        fault = None if hasattr(error, "exit_code") else find_fault(error, folder)
        if fault is None:
            raise
        # Orbax leaves coroutines behind, which complain when Python ends.
        sys.unraisablehook = lambda _: None
        if jax.process_count() > 1:
            agreement.end(fault.exit_code, str(fault))
        raise fault from error


def find_fault(error: BaseException, folder: epath.Path) -> StorageFaultError | None:
    """The fault of the storage that has led to an error, None if it has another cause.

    Args:
      error: an error of a run.
      folder: workdir of the run.
    """
    if not is_remote(folder) and not (folder / CONFIG_JSON).exists():  # Orbax makes folders again
        return StorageFaultError(
            f"workdir {folder} has vanished: it was deleted, or its disk is not mounted any more. "
            "Nothing more could be saved. Put it back and run the same command again",
            GIVEN_UP,
        )
    for one in _chain(error):
        number = _error_number(one)
        known = _FAULTS.get(number)
        if known is None and str(folder) in str(one):
            known = _OF_THE_WORKDIR.get(number)
        if known is None and is_remote(folder) and _is_of_a_store(one):
            known = ("its store does not answer", "see whether it can be reached", AGAIN)
        if known is not None:
            what, remedy, code = known
            return StorageFaultError(
                f"workdir {folder}: {what}. To go on, {remedy} and run the same command again; it "
                f"{_next_start(folder)}",
                code,
            )
    return None


def keep_quiet_about_raised_errors() -> None:
    """Leaves the errors of Orbax's threads to those who catch them: they are raised as well."""
    absl_logging.get_absl_handler().addFilter(_is_not_raised)
    shown = sys.unraisablehook

    def show(unraisable: Any) -> None:
        # From TensorStore's threads, whose event loop has given up.
        if str(unraisable.exc_value) != "Event loop is closed":
            shown(unraisable)

    sys.unraisablehook = show
    # Shared memory of a killed input worker is freed at the end, which its tracker calls a leak.
    sys.warnoptions.append("ignore:resource_tracker")


def _is_not_raised(record: logging.LogRecord) -> bool:
    of_orbax = record.name == "asyncio" or "orbax" in record.pathname
    return not (of_orbax and record.exc_info and record.levelno >= logging.ERROR)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, what it was raised from, and what it was raised after."""
    waiting, seen = [error], set()
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
        waiting += [other for other in (one.__cause__, one.__context__) if other is not None]


def _is_of_a_store(error: BaseException) -> bool:
    """Whether an error comes from a file system or the package of a store, which has its own."""
    kinds = [f"{kind.__module__}." for kind in type(error).__mro__]
    return isinstance(error, OSError) or any(kind.startswith(_STORES) for kind in kinds)


def _next_start(folder: epath.Path) -> str:
    try:
        steps = checkpoint_steps(folder)
    except Exception:  # a store that does not answer
        return "continues from its newest checkpoint"
    return f"continues from step {steps[0]}" if steps else "begins again"


def _error_number(error: BaseException) -> int:
    """The error number of an OSError, or in the text of another error; 0 for none."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    match = _NUMBERS.search(str(error))
    return int(next(filter(None, match.groups()))) if match else 0
