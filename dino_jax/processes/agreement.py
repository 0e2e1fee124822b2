"""Agreement of all processes: on what they do, and on steps at which they stop or save.

Processes are not at the same step when somebody asks, so each reports its step and waits until all
have answered; they agree on the step after the latest of these. That costs a round trip when
somebody asks, and nothing on all other steps.
"""

import dataclasses
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, Protocol, TypeVar

from dino_jax.processes.conference import Judge
from dino_jax.processes.ending import end_now
from dino_jax.processes.facts import Facts, require_alike

Opened = TypeVar("Opened")


class Agreement(Protocol):
    """Requests made anywhere, agreed on between steps; and questions that all answer.

    agreement.ask("save")                       any process, at any time, also a signal handler
    if agreement.reached("save", step): …       every process, after every step
    answer = agreement.confer(mine, judge)      every process, in the same order

    Attributes:
      hosts: names of the hosts by process; of all of them on process 0.
    """

    @property
    def hosts(self) -> Mapping[int, str]: ...

    def confer(self, mine: Any, judge: Judge) -> Any:
        """Tells process 0 something; it judges what all have told, and all get its answer.

        Args:
          mine: what this process tells, as JSON.
          judge: maps what was told, by process, to the answer, as JSON; called on process 0 only.

        Raises:
          ValueError: on all processes, if `judge` raises a ValueError or an OSError.
        """
        ...

    def end(self, code: int, why: str) -> NoReturn:
        """Ends all processes at once, wherever they are; for another thread than the main one."""
        ...

    def ask(self, topic: str) -> None:
        """Asks all processes for `topic`; returns at once."""
        ...

    def reached(self, topic: str, step: int) -> bool:
        """Whether `step` is the agreed one: true once per request, and alike on all processes."""
        ...


class Alone:
    """The agreement of a single process with itself."""

    def __init__(self):
        self.hosts = {0: socket.gethostname()}
        self._asked: set[str] = set()

    def confer(self, mine: Any, judge: Judge) -> Any:
        """See `Agreement.confer`."""
        return judge({0: mine})

    def end(self, code: int, why: str) -> NoReturn:
        """See `Agreement.end`."""
        end_now(code, why)

    def ask(self, topic: str) -> None:
        """See `Agreement.ask`."""
        self._asked.add(topic)

    def reached(self, topic: str, step: int) -> bool:
        """See `Agreement.reached`."""
        del step
        asked = topic in self._asked
        self._asked.discard(topic)
        return asked


@dataclasses.dataclass
class _Proposal:
    topic: str
    step: int | None = None  # None until all have said where they are


class Proposals:
    """One process's view of the agreements in progress; safe to use from two threads."""

    def __init__(self):
        self._proposals: dict[int, _Proposal] = {}
        self._step = 0  # the last one that was asked about
        self._changed = threading.Condition()

    def propose(self, number: int, topic: str) -> int:
        """Takes a proposal; returns the step that this process does not go beyond until `settle`.

        Args:
          number: number of the proposal, never used before.
          topic: topic of the request.
        """
        with self._changed:
            self._proposals[number] = _Proposal(topic)
            return self._step

    def settle(self, number: int, step: int) -> None:
        """Takes the step that was agreed on."""
        with self._changed:
            self._proposals[number].step = step
            self._changed.notify_all()

    def reached(self, topic: str, step: int) -> bool:
        """See `Agreement.reached`; waits while a proposal is open."""
        with self._changed:
            self._step = step
            self._changed.wait_for(lambda: None not in self._steps(topic))
            # A resumed run starts beyond the step if that was agreed before anyone had begun.
            due = [agreed <= step for agreed in self._steps(topic) if agreed is not None]
            self._proposals = {
                number: proposal
                for number, proposal in self._proposals.items()
                if proposal.topic != topic or proposal.step is None or proposal.step > step
            }
            return any(due)

    def _steps(self, topic: str) -> list[int | None]:
        return [proposal.step for proposal in self._proposals.values() if proposal.topic == topic]


class Votes:
    """Collects, on process 0, where all processes are."""

    def __init__(self, count: int):
        self._count = count
        self._votes: dict[int, list[int]] = {}
        self._next = 0

    def open(self) -> int:
        """The number of a new proposal."""
        self._next += 1
        self._votes[self._next] = []
        return self._next

    def add(self, number: int, step: int) -> int | None:
        """Takes the answer of one process; returns the agreed step once all have answered."""
        votes = self._votes[number]
        votes.append(step)
        if len(votes) < self._count:
            return None
        del self._votes[number]
        return max(votes) + 1


def require_same(agreement: Agreement, facts: Facts, advice: str) -> None:
    """Checks that all processes say the same.

    Args:
      agreement: agreement of all processes.
      facts: what this process says, by name.
      advice: what they must have in common, and how to mend it.

    Raises:
      ValueError: on all processes, if they do not; it lists all differences.
    """
    agreement.confer(facts, lambda said: require_alike(said, agreement.hosts, advice))


def open_alike(
    agreement: Agreement,
    read: Callable[[], Opened],
    describe: Callable[[Opened], Facts],
    advice: str,
    judge: Callable[[Opened], Any] = lambda opened: None,
) -> tuple[Opened, Any]:
    """Opens something on all processes, which must be the same there.

    Args:
      agreement: agreement of all processes.
      read: opens it; a ValueError or an OSError of one process is everybody's.
      describe: what tells it from others.
      advice: what all processes must have in common, and how to mend it.
      judge: what process 0 finds out about it once all have the same, as JSON.

    Returns:
      What was opened, and the answer of `judge`.

    Raises:
      ValueError: on all processes, if one cannot open it, they differ, or `judge` raises one.
    """
    opened: list[Opened] = []  # empty if it cannot be opened
    said: dict[str, Any] = {"error": "", "facts": {}}
    try:
        opened.append(read())
        said["facts"] = describe(opened[0])
    except (ValueError, OSError) as error:
        said["error"] = str(error) or type(error).__name__

    def compare(told: Mapping[int, Any]) -> Any:
        errors = {process: each["error"] for process, each in told.items() if each["error"]}
        if len(errors) == len(told) and len(set(errors.values())) == 1:
            raise ValueError(errors[0])
        for process, text in errors.items():
            raise ValueError(f"process {process} on {agreement.hosts[process]}: {text}")
        require_alike({i: each["facts"] for i, each in told.items()}, agreement.hosts, advice)
        return judge(opened[0])

    answer = agreement.confer(said, compare)
    return opened[0], answer
