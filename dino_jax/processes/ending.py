"""How a process ends wherever its main thread is, and what is still done then."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

AGAIN = 75  # EX_TEMPFAIL of sysexits.h: the launcher may start the same command again
LAST_SECONDS = 5.0  # for the last deeds of a process, which may wait for a network

_deeds: list[Callable[[], object]] = []


@contextlib.contextmanager
def at_end(deed: Callable[[], object]) -> Iterator[None]:
    """Does something quick after the block, also if the process ends without leaving it."""
    _deeds.append(deed)
    try:
        yield
    finally:
        if deed in _deeds:
            _deeds.remove(deed)
            deed()


def end_now(code: int, why: str) -> NoReturn:
    """Ends this process at once, from any thread, with one line on stderr."""
    advice = ": run the same command again" if code == AGAIN else ""
    exit_now(code, f"\nstopped: {why}; exit code {code}{advice}\n")


def exit_now(code: int, line: str = "") -> NoReturn:
    """Ends this process at once, from any thread or signal handler.

    Args:
      code: exit code.
      line: for stderr; written by os.write, as the main thread may be in a print.
    """
    os.write(2, line.encode())
    # In a thread of its own: a signal handler must not wait for a lock of what it interrupts.
    last = threading.Thread(target=_do_all, daemon=True)
    with contextlib.suppress(RuntimeError):  # Python is shutting down: no new threads
        last.start()
        last.join(LAST_SECONDS)
    os._exit(code)


def _do_all() -> None:
    while _deeds:
        with contextlib.suppress(Exception):
            _deeds.pop()()
