"""The lock of a folder that a command writes, held by all its processes as one."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

from dino_jax.processes.agreement import Agreement, Alone
from dino_jax.processes.ending import at_end
from dino_jax.workdir.layout import LOCK_JSON
from dino_jax.workdir.lock import BEAT_SECONDS, Lock, take_lock

LOST = 2  # exit code: somebody has to choose between two trainings


@contextlib.contextmanager
def one_writer(
    folder: str | os.PathLike, option: str = "--workdir", agreement: Agreement | None = None
) -> Iterator[None]:
    """Holds the lock of a folder during the block; it is free again however the process ends.

    Args:
      folder: local or gs://; made if there is none.
      option: option that names the folder, for messages.
      agreement: agreement of all processes, of which process 0 takes the lock; None for a single
        process.

    Raises:
      ValueError: on all processes, if another command holds it or the folder cannot be used.
      OSError: as the ValueError, with a single process.
    """
    agreement = agreement or Alone()
    taken: list[Lock] = []
    agreement.confer(None, lambda _: taken.append(take_lock(folder, _say, option)))
    if not taken:
        yield
        return
    lock, released = taken[0], threading.Event()

    def release() -> None:
        released.set()
        try:
            lock.release()
        except Exception as error:  # of any store; what the command wrote is whole
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            line = f"{LOCK_JSON} stays in {folder} ({reason}); the next start takes it over"
            with contextlib.suppress(Exception):  # nobody reads stderr any more
                print(line, file=sys.stderr, flush=True)

    with at_end(release):
        beating = threading.Thread(
            target=_beat, args=(folder, lock, released, agreement), name="lock", daemon=True
        )
        beating.start()
        yield


def _beat(
    folder: str | os.PathLike, lock: Lock, released: threading.Event, agreement: Agreement
) -> None:
    """The thread: gives signs of life."""
    while not released.wait(BEAT_SECONDS):
        owner = ""
        with contextlib.suppress(Exception):  # the storage cannot be reached: perhaps the next time
            owner = lock.beat()
        if owner:
            why = f"{folder} was taken over by {owner}: this process had given no sign of life"
            agreement.end(LOST, why)


def _say(line: str) -> None:
    print(line, flush=True)
