"""Questions that all processes answer at the same place of the program, and process 0 judges."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

Judge = Callable[[Mapping[int, Any]], Any]  # what all have said, by process, to the answer


class Conference:
    """What one process has heard so far; safe to use from two threads.

    Questions have no names: the first one that a process asks is the first one of all others.
    """

    def __init__(self, count: int):
        self._count = count
        self._asked = 0
        self._said: dict[tuple[int, int], Any] = {}  # by question and process; on process 0
        self._answers: dict[int, dict[str, Any]] = {}  # by question; on the others
        self._changed = threading.Condition()

    def next_question(self) -> int:
        """The number of the question that this process asks now."""
        self._asked += 1
        return self._asked

    def hear(self, question: int, process: int, value: Any) -> None:
        """Process 0: takes what a process says."""
        with self._changed:
            self._said[question, process] = value
            self._changed.notify_all()

    def wait_for_all(self, question: int) -> dict[int, Any]:
        """Process 0: what all say, by process."""
        everybody = range(self._count)
        with self._changed:
            self._changed.wait_for(lambda: all((question, i) in self._said for i in everybody))
            return {i: self._said.pop((question, i)) for i in everybody}

    def settle(self, question: int, answer: dict[str, Any]) -> None:
        """Any other process: takes the answer."""
        with self._changed:
            self._answers[question] = answer
            self._changed.notify_all()

    def wait_for_answer(self, question: int) -> dict[str, Any]:
        """Any other process: the answer of process 0."""
        with self._changed:
            self._changed.wait_for(lambda: question in self._answers)
            return self._answers.pop(question)
