"""The report of a run that is still training: kept up to date, never in its way."""

import time
from collections.abc import Callable

from etils import epath

from dino_jax.report.write import write_report
from dino_jax.workdir.layout import REPORT_HTML

LARGEST_SHARE = 0.05  # largest share of the time of a run for its reports


class LiveReport:
    """Writes workdir/report.html; one process only."""

    def __init__(self, workdir: epath.Path, clock: Callable[[], float] = time.monotonic):
        """Writes nothing yet.

        Args:
          workdir: workdir of the run.
          clock: returns monotonic seconds.
        """
        self._workdir, self._clock = workdir, clock
        self._seconds, self._finished = 0.0, clock()

    def update(self) -> bool:
        """Writes the report, unless the previous one took too large a share of the time since.

        Returns:
          Whether it was written.
        """
        if self._seconds > LARGEST_SHARE * (self._clock() - self._finished):
            return False
        self.finish()
        return True

    def finish(self) -> None:
        """Writes the report in any case."""
        begun = self._clock()
        try:
            write_report([self._workdir], self._workdir / REPORT_HTML)
        finally:
            self._finished = self._clock()
            self._seconds = self._finished - begun
