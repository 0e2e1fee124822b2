"""Speed of a run, and the time its devices wait for data: the metrics under "time/"."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from dino_jax.run.screen import Lap


class Throughput:
    """Measures for how long the devices had nothing to do because a batch was not there yet.

        with throughput.batch(): batch = next(stream)
        metrics = train_step(…)
        throughput.started(metrics)

    The host runs ahead of the devices, so that the time it spends on a batch costs nothing while
    the step before still runs. A thread notes when that step ends.
    """

    def __init__(self, hours_before: float, clock: Callable[[], float] = time.monotonic):
        """Starts the clock.

        Args:
          hours_before: hours that earlier starts of this run took up to the step it continues from.
          clock: returns monotonic seconds.
        """
        self._clock = clock
        self._created = clock() - 3600 * hours_before
        self._ends = ThreadPoolExecutor(1, thread_name_prefix="throughput")
        self._end: Future[float] | None = None
        self._waited = 0.0

    @property
    def hours(self) -> float:
        """Hours of the run so far, those of earlier starts among them."""
        return (self._clock() - self._created) / 3600

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Context for loading the next batch."""
        asked = self._clock()
        yield
        if self._end is not None and self._end.done():
            self._waited += self._clock() - max(asked, self._end.result())

    def started(self, result: Any) -> None:
        """Takes an array that the step just started will return."""
        self._end = self._ends.submit(self._note_end, result)

    def describe(self, lap: Lap) -> dict[str, float]:
        """The numbers of a log interval; every process calls it.

        Args:
          lap: times of the interval, from `Progress.log`.

        Returns:
          The metrics "images_per_second" and "time/…" of docs/metrics.md, as far as they can be
          measured here and so far.
        """
        waited, self._waited = self._waited, 0.0
        numbers = {"time/hours": self.hours}
        if lap.seconds_left is not None:
            numbers["time/hours_left"] = lap.seconds_left / 3600
        if lap.images_per_second is not None:
            speed = lap.images_per_second
            numbers |= {
                "images_per_second": speed,
                "time/images_per_second_per_device": speed / jax.device_count(),
                "time/data_wait_share": _max_over_processes(min(waited / lap.seconds, 1.0)),
            }
        return numbers | _describe_memory()

    def close(self) -> None:
        """Ends the thread."""
        self._ends.shutdown(wait=False)

    def _note_end(self, result: Any) -> float:
        jax.block_until_ready(result)
        return self._clock()


def _describe_memory() -> dict[str, float]:
    """Peak over the devices of this process; nothing where the backend (CPU) does not report it."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    peaks = [each["peak_bytes_in_use"] for each in stats if each and "peak_bytes_in_use" in each]
    return {"time/peak_memory_gib": max(peaks) / 2**30} if peaks else {}


def _max_over_processes(value: float) -> float:
    """One process that waits holds up all."""
    if jax.process_count() == 1:
        return value
    return float(np.max(multihost_utils.process_allgather(np.float32(value))))
