"""metrics.jsonl, the record of a run, and the copies of it that `writers` keep."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils import epath

from dino_jax.run.writers import Writer, close_all, write_to_all
from dino_jax.workdir.json_lines import JsonLines
from dino_jax.workdir.layout import METRICS_JSONL
from dino_jax.workdir.paths import absolute_path


class MetricsWriter:
    """Writes scalars to `workdir/metrics.jsonl` and copies of them; a context manager.

    One line of metrics.jsonl is one `write`: {"step": 10, "loss": 5.1, ...}, strict JSON, on disk
    when `write` returns. A number that is not finite is `null` there (JSON has no NaN; pandas reads
    null as NaN) and left out of the copies. Processes other than 0 write nothing.
    """

    def __init__(self, workdir: epath.PathLike, start_step: int, copies: Sequence[Writer] = ()):
        """Opens the file of a run that continues after `start_step` finished updates.

        Lines of later steps, which this run will write again, and lines torn by a crash are
        dropped: one history without duplicates. With `start_step` 0 all lines are dropped: a run
          that begins again measures its step 0 again. `copies` are closed with this writer.
        """
        self._copies, self._open = copies, True
        self._writes = jax.process_index() == 0
        if not self._writes:
            return
        workdir = absolute_path(workdir)
        self._lines = JsonLines(workdir / METRICS_JSONL, start_step, holds_numbers)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes one line, and its copies.

        Args:
          step: Finished updates.
          metrics: Name to number (or 0-d array, which waits for the device); "a/b" is b of group a.

        Raises:
          ValueError: if a metric is called "step", or after `close`.
        """
        if "step" in metrics:
            raise ValueError('"step" names the step of a line; give the metric another name')
        if not self._writes:
            return
        if not self._open:
            raise ValueError(f"the metrics of step {step} came after MetricsWriter.close()")
        numbers = {name: float(value) for name, value in metrics.items()}
        finite = {name: x if math.isfinite(x) else None for name, x in numbers.items()}
        self._lines.append({"step": int(step), **finite})
        known = {name: number for name, number in finite.items() if number is not None}
        write_to_all(self._copies, int(step), known)

    def close(self) -> None:
        """Closes the file and the copies; more than one call is fine."""
        if self._open:
            if self._writes:
                self._lines.close()
            close_all(self._copies)
            self._open = False

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def holds_numbers(record: Mapping[str, Any]) -> bool:
    """Whether all values of a line are finite numbers, or None."""
    return all(
        value is None
        or (isinstance(value, int | float) and not isinstance(value, bool) and _is_finite(value))
        for value in record.values()
    )


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False
