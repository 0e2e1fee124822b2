"""Checkpoints by the clock, in addition to those by steps."""

import time
from collections.abc import Callable

import jax

from dino_jax.processes.agreement import Agreement

TOPIC = "save"


class SaveClock:
    """Tells when a checkpoint is due, on all processes after the same step.

    Clocks of hosts differ: only process 0 looks at its own.
    """

    def __init__(
        self, minutes: float, agreement: Agreement, clock: Callable[[], float] = time.monotonic
    ):
        """Starts the clock.

        Args:
          minutes: minutes from the last checkpoint until one is due; 0: never.
          agreement: agreement of all processes.
          clock: returns monotonic seconds.
        """
        self._seconds = 60 * minutes if jax.process_index() == 0 else 0.0
        self._agreement, self._clock = agreement, clock
        self._last = clock()

    def due(self, step: int) -> bool:
        """Whether a checkpoint of `step` is due; every process calls it after every step."""
        if self._seconds and self._clock() - self._last >= self._seconds:
            self.restart()
            self._agreement.ask(TOPIC)
        return self._agreement.reached(TOPIC, step)

    def restart(self) -> None:
        """Notes that a checkpoint was made."""
        self._last = self._clock()
