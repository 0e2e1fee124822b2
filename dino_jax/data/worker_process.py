"""Behavior of the input's worker processes: they neither outlive nor disturb their parent."""

import importlib.util
import os
import signal
import sys
import threading
from multiprocessing import connection, parent_process
from pathlib import Path

_PACKAGE = __name__.partition(".")[0]


def start_workers_alone() -> None:
    """Lets spawned processes begin with `worker_main` instead of the whole command.

    Nothing changes in programs other than our commands: what workers get may be defined in their
    main module.
    """
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    name = spec.name.partition(".")[0] if spec else Path(getattr(main, "__file__", "")).stem
    if name in (_PACKAGE, _PACKAGE.replace("_", "-")):
        main.__spec__ = importlib.util.find_spec(f"{_PACKAGE}.data.worker_main")


def follow_parent() -> None:
    """Leaves Ctrl-C and SIGTERM to the parent, and ends with it even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
