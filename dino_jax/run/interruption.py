"""Signals: SIGTERM (a preempted machine) and Ctrl-C stop a run between two steps, saved."""

import os
import signal
import threading
from types import FrameType, TracebackType

from dino_jax.processes.agreement import Agreement
from dino_jax.processes.ending import AGAIN, exit_now

LOST_WORKER = "a lost input worker"
EXIT_CODES = {
    signal.SIGTERM: AGAIN,
    signal.SIGINT: 130,  # 128 + SIGINT, as shells report Ctrl-C
}


def end_on_sigterm() -> None:
    """Makes SIGTERM end at once with 75 until an `Interruption` takes over: nothing to save yet."""
    signal.signal(signal.SIGTERM, _end)


def _end(number: int, frame: FrameType | None) -> None:
    del frame
    exit_now(EXIT_CODES[signal.Signals(number)], "\nSIGTERM: nothing to save, stopping.\n")


class Interruption:
    """Turns SIGTERM and the first Ctrl-C into a request to stop; a context manager.

        with Interruption(agreement) as interruption:
            for step in ...:
                ...
                if interruption.should_stop(step):
                    break
        ...save...
        sys.exit(interruption.exit_code)

    Ctrl-C after any request raises KeyboardInterrupt at once; a repeated SIGTERM changes nothing.
    The old handlers come back on exit. Python sets signal handlers in the main thread only: entered
    in another thread, this installs none and signals act as before.

    Attributes:
      requested: Name of the signal that asks to stop ("SIGTERM", "SIGINT"), LOST_WORKER, or None.
    """

    def __init__(self, agreement: Agreement):
        """Installs nothing yet.

        Args:
          agreement: agreement of all processes; one signal anywhere stops all at one step.
        """
        self.requested: str | None = None
        self._agreement = agreement
        self._previous = {}

    @property
    def exit_code(self) -> int:
        """75 after SIGTERM or a lost worker, 130 after Ctrl-C, 0 if nothing was requested."""
        if self.requested == LOST_WORKER:
            return EXIT_CODES[signal.SIGTERM]
        return 0 if self.requested is None else EXIT_CODES[signal.Signals[self.requested]]

    def stop_without_worker(self) -> None:
        """Requests to stop because an input worker has died."""
        self._agreement.ask(LOST_WORKER)

    def should_stop(self, step: int) -> bool:
        """Whether to stop after `step`: one answer, and one `requested`, on all processes.

        Every process must call it on every step.
        """
        causes = (*(number.name for number in EXIT_CODES), LOST_WORKER)
        reached = [cause for cause in causes if self._agreement.reached(cause, step)]
        if reached:  # SIGTERM first: a preemption anywhere decides, and the launcher restarts
            self.requested = reached[0]
        return bool(reached)

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._previous = {s: signal.signal(s, self._handle) for s in EXIT_CODES}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for signal_number, handler in self._previous.items():
            # None stands for a handler not set from Python, which cannot be set again from here.
            signal.signal(signal_number, signal.SIG_DFL if handler is None else handler)
        self._previous = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.requested = signal.Signals(number).name
        self._agreement.ask(self.requested)
        # os.write and not print: a handler may run in the middle of another print.
        os.write(2, f"\n{self.requested}: saving and stopping after this step.".encode())
        os.write(2, b" Ctrl-C now quits at once, without saving.\n")
