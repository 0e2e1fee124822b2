"""Small processes that meet and hold together as those of a training do, without jax."""

import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]
# sys.argv: address, process, count, seconds between reports, seconds until the end, facts.
MEET = textwrap.dedent("""
    import json, os, signal, sys, time
    from dino_jax.processes.lifeline import Lifeline
    from dino_jax.processes.patience import MissingProcessesError, Patience, Place
    from dino_jax.processes.roll_call import call_the_roll
    place = Place(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    try:
        patience = Patience(float(sys.argv[4]), float(sys.argv[5]))
        lines = call_the_roll(place, patience, json.loads(sys.argv[6]))
    except (MissingProcessesError, ValueError) as error:
        print("stopped:", error, file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 2))
    print("met", sorted(lines), flush=True)
""")


def free_address() -> str:
    """A port of this machine that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return f"localhost:{probe.getsockname()[1]}"


class Small:
    """A process that meets the others and then runs `code`; a context manager."""

    def __init__(
        self,
        address: str,
        process: int,
        count: int,
        code: str = "",
        report: float = 30.0,
        timeout: float = 60.0,
        facts: dict[str, object] | None = None,
    ):
        arguments = [address, str(process), str(count), str(report), str(timeout)]
        arguments.append(json.dumps(facts or {}))
        self._process = subprocess.Popen(
            [sys.executable, "-c", MEET + textwrap.dedent(code), *arguments],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def read_line(self) -> str:
        """The next line of its stdout."""
        return self._process.stdout.readline().rstrip("\n")

    def read_error_line(self) -> str:
        """The next line of its stderr."""
        return self._process.stderr.readline().rstrip("\n")

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()

    def finish(self) -> tuple[int, str, str]:
        """Exit code, and the rest of stdout and stderr."""
        out, err = self._process.stdout.read(), self._process.stderr.read()  # a few lines
        return self._process.wait(), out, err

    def __enter__(self) -> "Small":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        self._process.stderr.close()
