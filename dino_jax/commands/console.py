"""Output to consoles of every kind: other encodings, and readers that have gone."""

import contextlib
import os
import sys
from types import TracebackType
from typing import Any


def prepare_console() -> None:
    """Writes what an encoding lacks as escapes, and ends without a traceback if nobody reads."""
    streams: tuple[Any, ...] = (sys.stdout, sys.stderr)
    for stream in streams:
        if hasattr(stream, "reconfigure"):  # None if it is closed, something else in a notebook
            with contextlib.suppress(ValueError, OSError):
                stream.reconfigure(errors="backslashreplace")
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _end_quietly


def _end_quietly(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """As Python does, but for a pipe whose reader has gone, as of `dino-jax … | head`."""
    if not issubclass(kind, BrokenPipeError):
        sys.__excepthook__(kind, error, traceback)
        return
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still buffered
