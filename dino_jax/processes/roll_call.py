"""All processes meet at process 0 before jax starts, so that missing processes can be named.

Process 0 listens at the port that jax's own coordination service will use (one hole in a firewall
is enough); the others connect and say who they are and what they are about to do (their facts:
versions, config, settings); process 0 tells everybody who is there. When all are, it closes the
port, and either sends everybody off or, if they are about to do different things, tells everybody
what differs. The connections stay, see `lifeline`.
"""

import selectors
import socket
import time

from dino_jax.processes.facts import Facts, require_alike
from dino_jax.processes.line import Line, Message
from dino_jax.processes.patience import Patience, Place, describe_missing, describe_obstacle

RETRY_SECONDS = 0.5
CONNECT_SECONDS = 5.0
SAME_START = (
    "Start the same command with the same code, packages and settings on all hosts; of "
    "config.runtime only what belongs to a host (workers, threads, compilation_cache, join_…) may "
    "differ."
)


def call_the_roll(place: Place, patience: Patience, facts: Facts | None = None) -> dict[int, Line]:
    """Waits until all processes are there, and checks that they are about to do the same.

    Args:
      place: place of this process.
      patience: how long to wait for those that are missing.
      facts: what this process is about to do.

    Returns:
      A connection to each other process, for process 0; else one to process 0.

    Raises:
      MissingProcessesError: if `patience` runs out.
      ValueError: if the processes were not started for the same run: different counts, or a number
        twice, or different facts.
    """
    facts = facts or {}
    if place.process == 0:
        return _gather(place, patience, facts)
    while True:
        line = _connect(place, patience, facts)
        try:
            _wait_for_all(line, place, patience)
            return {0: line}
        except OSError as error:  # process 0 has ended: perhaps it is started again
            line.close()
            patience.check(describe_obstacle(place, error))
            time.sleep(RETRY_SECONDS)


def _gather(place: Place, patience: Patience, facts: Facts) -> dict[int, Line]:
    """Process 0: lets the others in, and sends all off if they agree."""
    roll = _Roll(place, facts)
    with _listen(place, patience) as listener, selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while not roll.complete:
            for key, _ in selector.select(RETRY_SECONDS):
                line: Line | None = key.data
                if line is None:
                    line = Line(listener.accept()[0])
                    selector.register(line, selectors.EVENT_READ, line)
                elif not roll.hear(line):
                    selector.unregister(line)
                    line.close()
            roll.publish()
            if not roll.complete:
                patience.check(describe_missing(place, roll.present))
    roll.send_off()
    return roll.lines


def _listen(place: Place, patience: Patience) -> socket.socket:
    """Opens the port on all addresses of this host, as soon as it is free."""
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    while True:
        try:
            return socket.create_server(
                ("", place.port), family=family, backlog=place.count, dualstack_ipv6=dual
            )
        except OSError as error:
            patience.check(
                f"process 0 cannot open its port {place.port} ({error.strerror}). Likely: an "
                "earlier start still has it, or another training runs on this host"
            )
            time.sleep(RETRY_SECONDS)


class _Roll:
    """The processes that process 0 has seen."""

    def __init__(self, place: Place, facts: Facts):
        self._place, self._facts = place, {0: facts}
        self.lines: dict[int, Line] = {}
        self.present = {0: socket.gethostname()}
        self._published, self._published_at = self.present.copy(), 0.0

    @property
    def complete(self) -> bool:
        return len(self.present) == self._place.count

    def hear(self, line: Line) -> bool:
        """Reads how a process introduces itself; returns whether its connection is usable."""
        try:
            for message in line.receive():
                self._admit(line, message)
        except _RefusedError:
            raise
        except (OSError, ValueError, KeyError, TypeError):  # gone, or not one of our processes
            self._remove(line)
            return False
        return True

    def tell(self, message: Message) -> None:
        """Sends to all; a dead process shows when it is read from."""
        for line in self.lines.values():
            try:
                line.send(message)
            except OSError:
                continue

    def publish(self) -> None:
        """Tells all who is there if that has changed, now and then."""
        now = time.monotonic()
        if self.present != self._published and now > self._published_at + RETRY_SECONDS:
            self._published, self._published_at = self.present.copy(), now
            self.tell({"present": self.present})

    def send_off(self) -> None:
        """Once all are there: all may go, or, if they differ, none."""
        try:
            require_alike(self._facts, self.present, SAME_START)
        except ValueError as error:
            self.tell({"refused": str(error)})
            raise _RefusedError(str(error)) from error
        self.tell({"go": True, "alike": True})

    def _admit(self, line: Line, message: Message) -> None:
        process, count, host = int(message["process"]), int(message["count"]), str(message["host"])
        error = self._objection(process, count, host)
        if error is None and "facts" not in message:
            error = _older(process, host)
        if error:
            line.send({"refused": error})
            self.tell({"refused": error})
            raise _RefusedError(error)
        line.host = host
        self.lines[process], self.present[process] = line, host
        self._facts[process] = dict(message["facts"])

    def _objection(self, process: int, count: int, host: str) -> str | None:
        if count != self._place.count:
            return (
                f"process {process} on {host} was started as one of {count} processes, process 0 "
                f"on {self.present[0]} as one of {self._place.count}: start the same command with "
                "the same settings on all hosts of one slice or job"
            )
        if process in self.present:
            return (
                f"two processes say that they are number {process} of {count}, on "
                f"{self.present[process]} and on {host}: start the command once per process"
            )
        return None

    def _remove(self, line: Line) -> None:
        for process, known in list(self.lines.items()):
            if known is line:
                del self.lines[process], self.present[process], self._facts[process]


class _RefusedError(ValueError):
    """The processes do not belong together."""


def _older(process: int, host: str) -> str:
    return (
        f"process {process} on {host} runs an older version of dino_jax, which does not say what "
        f"it is about to do. {SAME_START}"
    )


def _connect(place: Place, patience: Patience, facts: Facts) -> Line:
    """Any other process: reaches process 0, as soon as it is there."""
    while True:
        try:
            line = Line(socket.create_connection((place.host, place.port), CONNECT_SECONDS))
            hello = {"process": place.process, "count": place.count, "host": socket.gethostname()}
            line.send(hello | {"facts": facts})
            return line
        except OSError as error:
            patience.check(describe_obstacle(place, error))
            time.sleep(RETRY_SECONDS)


def _wait_for_all(line: Line, place: Place, patience: Patience) -> None:
    """Hears from process 0 who is there, until all are."""
    present: dict[int, str] = {place.process: socket.gethostname()}
    with selectors.DefaultSelector() as selector:
        selector.register(line, selectors.EVENT_READ)
        while True:
            messages = line.receive() if selector.select(RETRY_SECONDS) else []
            while messages:
                message = messages.pop(0)
                if "refused" in message:
                    raise _RefusedError(message["refused"])
                if "go" in message:
                    if "alike" not in message:  # nobody has compared
                        raise _RefusedError(_older(0, place.host))
                    line.unread = messages
                    return
                present = {int(process): host for process, host in message["present"].items()}
            patience.check(describe_missing(place, present))
