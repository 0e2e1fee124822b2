"""How long a process waits for others at the start, and what it says meanwhile."""

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from dino_jax.processes.ending import AGAIN


@dataclasses.dataclass(frozen=True)
class Place:
    """The number of this process among all.

    Attributes:
      address: address of process 0, "host:port".
      process: number of this process, from 0.
      count: number of all processes.
      local_device_ids: devices of this process if several share a host, else None for all.
    """

    address: str
    process: int
    count: int
    local_device_ids: Sequence[int] | None = None

    @property
    def host(self) -> str:
        """Host name or address of process 0."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """Port at which process 0 meets the others."""
        return int(self.address.rpartition(":")[2])


class MissingProcessesError(Exception):
    """Some processes did not come in time; a new start may succeed."""

    exit_code = AGAIN


class Patience:
    """Says from time to time who is missing, and loses patience in the end."""

    def __init__(
        self,
        report_seconds: float,
        timeout_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Starts the clock.

        Args:
          report_seconds: time between two reports.
          timeout_seconds: time until patience runs out.
          clock: returns monotonic seconds.
        """
        self._report_seconds, self._timeout_seconds = report_seconds, timeout_seconds
        self._clock = clock
        self._start, self._reports = clock(), 0

    def check(self, missing: str) -> None:
        """Reports when due; call it at least once per second.

        Args:
          missing: who is missing, and why.

        Raises:
          MissingProcessesError: if patience runs out.
        """
        waited = self._clock() - self._start
        if waited >= self._timeout_seconds:
            raise MissingProcessesError(
                f"gave up after {waited:.0f} s of waiting for other processes: {missing}"
            )
        if waited >= (self._reports + 1) * self._report_seconds:
            self._reports = int(waited / self._report_seconds)
            print(f"waiting for {waited:.0f} s: {missing}", file=sys.stderr, flush=True)


def describe_missing(place: Place, present: Mapping[int, str]) -> str:
    """Who is missing when the roll is called, and the likely causes.

    Args:
      place: place of this process.
      present: host of each process that is there, by number.
    """
    missing = [str(process) for process in range(place.count) if process not in present]
    there = ", ".join(f"{process} on {host}" for process, host in sorted(present.items()))
    return (
        f"process {', '.join(missing)} of {place.count} missing (there: {there}). Likely: the "
        "command was not started on every host (gcloud: --worker=all), ended there with an error "
        "(see its log), or is still importing; or a firewall keeps it from reaching "
        f"{place.address}"
    )


def describe_obstacle(place: Place, error: OSError) -> str:
    """Why process 0 cannot be reached, and the likely causes."""
    reason = error.strerror or str(error) or type(error).__name__
    silent = isinstance(error, TimeoutError)
    likely = (
        f"a firewall drops what goes to port {place.port} (allow tcp:{place.port} between the "
        "hosts), or that host is down"
        if silent
        else "the command was not started there (gcloud: --worker=all), ended with an error (see "
        "its log), or is still importing"
    )
    return f"process 0 missing, {place.address} does not answer ({reason}). Likely: {likely}"
