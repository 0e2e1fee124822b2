"""One start of a training, and what is known of it."""

import dataclasses
import re
import signal
import time
from collections.abc import Sequence
from typing import NamedTuple

from tests.run_train import Finished, Job


class Place(NamedTuple):
    """Where a start runs."""

    processes: int
    devices: int  # of each process
    fsdp: int


class Ended(NamedTuple):
    """How the processes of a start ended, and how long that took."""

    finished: list[Finished]
    seconds: float


@dataclasses.dataclass
class Round:
    """What happened in a round."""

    kind: str
    place: Place
    resumed_at: int | None = None  # step; None: it ended before
    last_step: int | None = None
    codes: list[int] = dataclasses.field(default_factory=list)
    seconds_to_end: float = 0.0
    note: str = ""
    lost_steps: int | None = None  # known when the next start resumes


class Started(Job):
    """The processes of one start; a context manager."""

    def __init__(self, arguments: list[str], place: Place, last_alone: Sequence[str] = ()):
        fsdp = f"--config.runtime.fsdp={place.fsdp}"
        count, devices = place.processes, place.devices
        super().__init__(*arguments, fsdp, processes=count, devices=devices, last_alone=last_alone)
        self.place = place

    def wait_for_step(self, step: int) -> None:
        self.processes[0].wait_for(f"step {step:2d}/")

    def send(self, number: signal.Signals, victims: list[int]) -> Ended:
        """Sends a signal to some of the processes and waits for the end of all."""
        begun = time.monotonic()
        for victim in victims:
            self.processes[victim].send(number)
        finished = self.finish()
        return Ended(finished, time.monotonic() - begun)


def resumed_step(out: str) -> int | None:
    """The step that a start began at, from what it printed."""
    found = re.search(r"^workdir .*, (?:new run|resumed at step (\d+))$", out, re.MULTILINE)
    return int(found[1] or 0) if found else None


def last_step(out: str) -> int | None:
    """The newest step that a start printed."""
    steps = re.findall(r"^step +(\d+)/", out, re.MULTILINE)
    return int(steps[-1]) if steps else None
