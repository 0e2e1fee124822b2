"""Commands that a signal stops: finished work stays, and the exit code tells the signal."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

POSTPONED_SECONDS = 0.2  # before a signal that came at a bad moment is sent again


class Stopped(BaseException):
    """A signal asked the command to stop; finished work stays."""

    def __init__(self, exit_code: int, name: str):
        super().__init__(name)
        self.exit_code, self.name = exit_code, name


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Turns SIGINT (exit code 130) and SIGTERM (75) into `Stopped` inside the block."""
    codes = {signal.SIGINT: 130, signal.SIGTERM: 75}
    postponed: list[threading.Timer] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if _in_destructor(frame):  # Python prints and ignores exceptions raised there
            postponed.append(threading.Timer(POSTPONED_SECONDS, os.kill, (os.getpid(), number)))
            postponed[-1].start()
            return
        raise Stopped(codes[signal.Signals(number)], signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in codes}
    try:
        yield
    finally:
        for timer in postponed:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_destructor(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False
