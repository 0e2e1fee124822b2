"""The training stream of a run, which outlives its workers."""

import re
import signal
import sys
from collections.abc import Callable, Generator

from dino_jax.data.multi_crop import Batch

Build = Callable[[int, int], Generator[Batch]]  # from the first step and the number of workers
_KILLED = re.compile(r"process was terminated unexpectedly with exit code (-?\d+)")  # of grain


class InputStream:
    """Batches of the steps of a run.

    When a worker process is killed, as happens when memory runs out, the run is told to stop, and
    the batches until then are made in this process: they are the same, whoever makes them. So all
    processes of a pod can stop after the same step, saved.
    """

    def __init__(self, build: Build, start_step: int, workers: int, stop: Callable[[], None]):
        """Starts the workers.

        Args:
          build: see `build_train_stream`.
          start_step: finished updates.
          workers: number of worker processes, 0 for none.
          stop: asks the run to stop soon, saved.
        """
        self._build, self._workers, self._stop = build, workers, stop
        self._stream = build(start_step, workers)

    def take(self, step: int) -> Batch:
        """The batch of the next step, counted from 1."""
        try:
            return next(self._stream)
        except Exception as error:
            killed = _KILLED.search(str(error)) if self._workers else None
            if killed is None:
                by = "an input worker" if self._workers else "the input"
                error.add_note(f"This was raised by {by}, which made the batch of step {step}.")
                raise
        self._stream.close()
        print(f"\n{describe_death(int(killed[1]))}", file=sys.stderr, flush=True)
        self._workers = 0
        self._stop()
        self._stream = self._build(step - 1, 0)
        return next(self._stream)

    def close(self) -> None:
        """Ends the workers."""
        self._stream.close()


def describe_death(code: int) -> str:
    """One line about a worker that has ended.

    Args:
      code: its exit code, negative for a signal.
    """
    how = f"ended with exit code {code}"
    if code < 0:
        how = f"was killed by {signal.Signals(-code).name}"
    likely = ""
    if code == -signal.SIGKILL:
        likely = (
            " Likely memory ran out: config.runtime.workers, config.runtime.threads (batches that "
            "each worker holds) and config.batch_size make it smaller."
        )
    return f"an input worker {how}: saving and stopping.{likely}"
