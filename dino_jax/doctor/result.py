"""Results of checks: OK, WARN or FAIL, with the fix; and how the processes of a pod share them."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

import jax
import numpy as np
from jax.experimental import multihost_utils

_INDENT = " " * 18


@dataclass(frozen=True)
class Result:
    """One line of the report.

    Attributes:
      name: name of the check, one or two words.
      level: OK; WARN: a run can start, but look at it; FAIL: it cannot.
      text: finding.
      fix: what to do, "" if nothing.
    """

    name: str
    level: Literal["OK", "WARN", "FAIL"]
    text: str
    fix: str = ""


def attempt(name: str, check: Callable[[], Result]) -> Result:
    """Runs a check; an exception is a result, too, and the next check follows."""
    try:
        return check()
    except Exception as error:  # cloud storage and device plug-ins raise classes of their own
        return Result(name, "FAIL", f"{type(error).__name__}: {error}", "see the message")


def describe_result(result: Result, where: str = "") -> str:
    """The line or lines of one result; `where` names the process if it is not the first."""
    text = f"{result.level:4}  {result.name:10}  {where}{result.text}".replace("\n", "\n" + _INDENT)
    return f"{text}\n{_INDENT}fix: {result.fix}" if result.fix else text


def describe_others(gathered: list[list[Result]]) -> list[str]:
    """The problems that other processes found, each with the number of its process."""
    lines = [
        describe_result(result, f"process {process}: ")
        for process, results in enumerate(gathered)
        for result in results
        if process > 0 and result.level != "OK"
    ]
    return lines or [f"OK    all of this on the other {len(gathered) - 1} processes, too"]


def exit_code(gathered: list[list[Result]]) -> int:
    """1 if anything failed on any process, else 0."""
    return int(any(result.level == "FAIL" for results in gathered for result in results))


def gather_results(results: list[Result]) -> list[list[Result]]:
    """The results of all processes, by process; all of them call it."""
    if jax.process_count() == 1:
        return [results]
    data = json.dumps([asdict(result) for result in results]).encode()
    sizes = multihost_utils.process_allgather(np.array([len(data)], np.int32)).ravel()
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    rows = multihost_utils.process_allgather(padded)
    return [
        [Result(**fields) for fields in json.loads(bytes(row[:size]))]
        for row, size in zip(rows, sizes, strict=True)
    ]
