"""Behavior of the input's worker processes: they neither outlive nor disturb their parent."""

import os
import signal
import threading
from multiprocessing import connection, parent_process


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
