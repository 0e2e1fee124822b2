"""Signals: SIGTERM (a preempted machine) and Ctrl-C stop a run between two steps, saved."""

import os
import signal
import threading
from types import FrameType, TracebackType

import jax
import numpy as np
from jax.experimental import multihost_utils

EXIT_CODES = {
    signal.SIGTERM: 75,  # EX_TEMPFAIL of sysexits.h: the launcher may start the same command again
    signal.SIGINT: 130,  # 128 + SIGINT, as shells report Ctrl-C
}


class Interruption:
    """Turns SIGTERM and the first Ctrl-C into a request to stop; a context manager.

        with Interruption(agree_every_steps=10) as interruption:
            for step in ...:
                ...
                if interruption.should_stop(step):
                    break
        ...save...
        sys.exit(interruption.exit_code)

    Ctrl-C after any request raises KeyboardInterrupt at once; a repeated SIGTERM changes nothing.
    The old handlers come back on exit. Python sets signal handlers in the main thread only: entered
    in another thread, this installs none and signals act as before. Enter it after
    `jax.distributed.initialize`, whose preemption service sets a handler of its own for SIGTERM.

    Attributes:
      requested: Name of the signal that asks to stop ("SIGTERM", "SIGINT"), or None.
    """

    def __init__(self, agree_every_steps: int = 1):
        """Installs nothing yet.

        Args:
          agree_every_steps: With several processes, the steps between two agreements, >= 1; each
            costs one small all-gather that waits for the devices. With one process it has no
            effect.

        Raises:
          ValueError: if `agree_every_steps` is smaller than 1.
        """
        if agree_every_steps < 1:
            raise ValueError(f"agree_every_steps must be at least 1, got {agree_every_steps}")
        self.requested: str | None = None
        self._agree_every_steps = agree_every_steps
        self._previous = {}

    @property
    def exit_code(self) -> int:
        """75 after SIGTERM, 130 after Ctrl-C, 0 if nothing was requested."""
        return 0 if self.requested is None else EXIT_CODES[signal.Signals[self.requested]]

    def should_stop(self, step: int) -> bool:
        """Whether to stop after `step`: one answer, and one `requested`, on all processes.

        Every process must call it on every step. With several processes the answer is False except
        at multiples of `agree_every_steps`, where one signal anywhere stops all.
        """
        if jax.process_count() == 1:
            return self.requested is not None
        if step % self._agree_every_steps:
            return False
        number = signal.Signals[self.requested] if self.requested else 0
        # SIGTERM is the larger number: a preemption anywhere decides, and the launcher restarts.
        agreed = int(np.max(multihost_utils.process_allgather(np.int32(number))))
        if agreed:
            self.requested = signal.Signals(agreed).name
        return agreed != 0

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
        # os.write and not print: a handler may run in the middle of another print.
        os.write(2, f"\n{self.requested}: saving and stopping after this step.".encode())
        os.write(2, b" Ctrl-C now quits at once, without saving.\n")
