"""Connections between the processes of a training: none outlives another unnoticed.

Without them a process whose neighbor has died waits in a collective for minutes, or dies with a
page of text about sockets. Here process 0 holds a connection to each other process; the kernel
closes it when a process dies, however that happens, and every process ends with one clear line and
exit code 75: run the same command again. Agreements on a step (`agreement`) use the connections.
"""

import atexit
import collections
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, NoReturn

from dino_jax.processes.agreement import Proposals, Votes
from dino_jax.processes.conference import Conference, Judge
from dino_jax.processes.ending import AGAIN, end_now, exit_now
from dino_jax.processes.line import Line, Message
from dino_jax.processes.patience import Place

GRACE_SECONDS = 30.0  # time to end without being forced, after another process has given up
DOUBT_SECONDS = 5.0  # after an error, until we know that it is not the echo of a death elsewhere
TOLD_SECONDS = 1.0  # process 0 stays this much longer, so that the others hear why
EXIT_SECONDS = 10.0  # from an error to the end, whatever still waits for other processes


class _End(NamedTuple):
    """How and why this process is to end."""

    code: int
    why: str


class Lifeline:
    """The other processes; also an `Agreement` with them, and a context manager.

    with join_processes() as lifeline:
        …train…

    An error inside ends the other processes, too, with the same exit code (`exit_code` of the
    exception, else 1); the death of another process ends this one, at once, with 75. An error of
    `confer` is everybody's own.
    """

    def __init__(self, place: Place, lines: dict[int, Line]):
        """Watches from now on.

        Args:
          place: number of this process and count of all.
          lines: connections to the other processes, from `call_the_roll`.
        """
        self._first, self._lines = place.process == 0, lines
        self._name = f"process {place.process}"
        self.hosts = {process: line.host for process, line in lines.items()}
        self.hosts[place.process] = socket.gethostname()
        self._proposals, self._votes = Proposals(), Votes(place.count)
        self._conference, self._all_know = Conference(place.count), False
        self._todo: collections.deque[Callable[[], object]] = collections.deque()  # for the thread
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._leaving: _End | None = None
        self._left = threading.Event()
        self._forced: tuple[float, _End] | None = None  # time and manner
        self._thread = threading.Thread(target=self._watch, name="lifeline", daemon=True)
        self._thread.start()
        atexit.register(self.leave)

    def ask(self, topic: str) -> None:
        """See `Agreement.ask`."""
        self._do(partial(self._pass_on, topic))

    def confer(self, mine: Any, judge: Judge) -> Any:
        """See `Agreement.confer`."""
        question = self._conference.next_question()
        if not self._first:
            self._do(partial(self._tell, {"question": question, "value": mine}))
            answer = self._conference.wait_for_answer(question)
            if "error" in answer:
                self._all_know = True
                raise ValueError(answer["error"])
            return answer["value"]
        self._conference.hear(question, 0, mine)
        try:
            value = judge(self._conference.wait_for_all(question))
        except (ValueError, OSError) as error:
            self._do(partial(self._tell, {"answer": question, "error": str(error)}))
            self._all_know = True
            raise ValueError(str(error)) from error
        self._do(partial(self._tell, {"answer": question, "value": value}))
        return value

    def end(self, code: int, why: str) -> NoReturn:
        """See `Agreement.end`."""
        self._do(partial(self._die, _End(code, why)))
        time.sleep(EXIT_SECONDS)
        end_now(code, why)

    def reached(self, topic: str, step: int) -> bool:
        """See `Agreement.reached`."""
        return self._proposals.reached(topic, step)

    def leave(self, code: int = 0, why: str = "") -> None:
        """Says goodbye, so that the others do not take the end of this process for a death.

        Args:
          code: exit code; if it is not 0, the others exit with it, too.
          why: the reason in that case, one line.
        """
        if self._leaving is None:
            self._leaving = _End(code, why)
            self._wake.send(b".")
            self._left.wait(DOUBT_SECONDS)

    def __enter__(self) -> "Lifeline":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.leave()
            return
        code = getattr(error, "exit_code", 1)
        if self._all_know:
            self.leave()
        elif isinstance(error, KeyboardInterrupt):
            code = 130
            self.leave(code, type(error).__name__)
        else:
            time.sleep(DOUBT_SECONDS)  # if another process has died, this is the end
            if self._forced is not None:  # the error is an echo of another one
                end_now(*self._forced[1])
            self.leave(code, f"{type(error).__name__}: {error}".partition("\n")[0])
        # At exit jax would wait for minutes for processes that will not come.
        atexit.register(_exit_at_once, code)

    def _watch(self) -> None:
        """The thread: reads from all lines until the end."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            for process, line in list(self._lines.items()):
                selector.register(line, selectors.EVENT_READ, process)
                for message in line.unread:
                    self._take(process, message)
            while True:
                for key, _ in selector.select(self._seconds_left()):
                    if key.fileobj is self._woken:
                        self._woken.recv(1 << 12)
                    elif not self._hear(key.data):
                        selector.unregister(key.fileobj)
                while self._todo:
                    self._todo.popleft()()
                if self._leaving is not None:
                    self._say_goodbye(self._leaving)
                    return

    def _seconds_left(self) -> float | None:
        """Seconds until this process is forced to end, which happens here; None if it is not."""
        if self._forced is None:
            return None
        left = self._forced[0] - time.monotonic()
        if left <= 0:
            end_now(*self._forced[1])
        return left

    def _hear(self, process: int) -> bool:
        """Reads from a line; returns whether it is still in use."""
        line = self._lines.get(process)
        if line is None:
            return False
        try:
            for message in line.receive():
                self._take(process, message)
        except (OSError, ValueError) as error:
            if process in self._lines and self._forced is None:
                reason = getattr(error, "strerror", None) or error
                where = f"process {process}" + (f" on {line.host}" if line.host else "")
                self._die(_End(AGAIN, f"{where} has died or cannot be reached ({reason})"))
            self._lines.pop(process, None)
        return process in self._lines

    def _take(self, process: int, message: Message) -> None:
        """Acts on what another process says."""
        if "ask" in message:
            self._pass_on(message["ask"])
        elif "propose" in message:
            step = self._proposals.propose(message["propose"], message["topic"])
            self._tell({"vote": message["propose"], "step": step})
        elif "vote" in message:
            self._count(message["vote"], message["step"])
        elif "settle" in message:
            self._proposals.settle(message["settle"], message["step"])
        elif "question" in message:
            self._conference.hear(message["question"], process, message["value"])
        elif "answer" in message:
            self._conference.settle(message["answer"], message)
        elif "ends" in message:
            end_now(message["ends"], message["why"])
        elif "leaves" in message:
            self._see_off(process, _End(message["leaves"], message["why"]))

    def _see_off(self, process: int, end: _End) -> None:
        """Another process leaves; if it gave up, so must all."""
        del self._lines[process]
        if end.code and self._forced is None:
            self._tell({"leaves": end.code, "why": end.why})
            self._forced = (time.monotonic() + GRACE_SECONDS, end)

    def _pass_on(self, topic: str) -> None:
        """Somebody asks for something: process 0 proposes it to all."""
        if not self._first:
            self._tell({"ask": topic})
            return
        number = self._votes.open()
        self._tell({"propose": number, "topic": topic})
        self._count(number, self._proposals.propose(number, topic))

    def _count(self, number: int, step: int) -> None:
        """Process 0: a vote has come in."""
        agreed = self._votes.add(number, step)
        if agreed is not None:
            self._tell({"settle": number, "step": agreed})
            self._proposals.settle(number, agreed)

    def _do(self, deed: Callable[[], object]) -> None:
        """Lets the thread do something, at once; only it sends."""
        self._todo.append(deed)
        self._wake.send(b".")

    def _die(self, end: _End) -> None:
        """All processes end, process 0 last: another one has died, or this one says so."""
        self._tell({"ends": end.code, "why": end.why})
        if self._first and len(self._lines) > 1:
            time.sleep(TOLD_SECONDS)
        end_now(*end)

    def _tell(self, message: Message) -> None:
        """Sends to process 0, or from it to all; a dead process shows when it is read from."""
        for line in list(self._lines.values()):
            try:
                line.send(message)
            except OSError:
                continue

    def _say_goodbye(self, end: _End) -> None:
        why = f"{self._name} on {socket.gethostname()} ended with exit code {end.code}: {end.why}"
        self._tell({"leaves": end.code, "why": why})
        self._left.set()
        if end.code:
            time.sleep(EXIT_SECONDS)
            _exit_at_once(end.code)


def _exit_at_once(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    exit_now(code)
