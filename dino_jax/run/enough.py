"""Tells when a run may end before its last step: nothing is gained any more, or its time is up."""

import jax

from dino_jax.processes.agreement import Agreement
from dino_jax.run.best import Best

TOPIC = "enough"


class Enough:
    """Judges between two steps, alike on all processes.

    Attributes:
      reason: why the run ends; "" as long as it does not.
    """

    def __init__(self, patience: int, hours: float, best: Best, agreement: Agreement):
        """Both limits are off at 0.

        Args:
          patience: evaluations in a row without a better network.
          hours: of the run, of earlier starts, too; process 0 looks at its clock.
          best: knows the evaluations so far.
          agreement: agreement of all processes.
        """
        self._patience, self._hours = patience, hours
        self._best, self._agreement = best, agreement
        self.reason = ""

    def before(self, hours: float) -> bool:
        """Whether a run that is resumed has had enough already.

        Args:
          hours: of the starts before, the same on all processes.
        """
        self._look(bool(self._hours) and hours >= self._hours)
        return bool(self.reason)

    def after(self, step: int, hours: float) -> bool:
        """Whether the run ends after a step; every process calls it after every step."""
        if self._hours and hours >= self._hours and jax.process_index() == 0:
            self._agreement.ask(TOPIC)
        self._look(self._agreement.reached(TOPIC, step))
        return bool(self.reason)

    def _look(self, late: bool) -> None:
        best = self._best
        if late:
            self.reason = f"the {self._hours:g} hours are over"
        elif self._patience and best.since >= self._patience:
            self.reason = (
                f"the last {best.since} evaluations were no better than that of step {best.reached}"
            )
