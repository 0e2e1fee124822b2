"""One process that reads many damaged inputs, each within limits of CPU time and memory.

  python -m tests.fuzz.worker FOLDER READER:SEED:FIRST:COUNT …

Writes a line of JSON before each input and one after it, so that whoever started it knows which
input has killed it.
"""

import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

CPU_SECONDS = 10
MORE_BYTES = 3 << 29  # 1.5 GiB of addresses besides those at the start


class TooSlow(BaseException):
    """Not an Exception: no reader may take it for damage."""


def make_input(reader: str, seed: int, number: int, folder: Path) -> None:
    """Puts input `number` into an empty folder; depends on nothing else."""
    from tests.fuzz.readers import READERS

    rng = np.random.default_rng([seed, zlib.crc32(reader.encode()), number])
    READERS[reader].make(folder, rng)


def read_input(name: str, folder: Path, stderr: BinaryIO) -> tuple[str, str]:
    """The outcome, "value", "error" or "failure", and what was raised or written to stderr."""
    outcome, what = _read(name, folder)
    sys.stderr.flush()
    if said := stderr.read().decode(errors="replace"):
        return "failure", f"{what}\nsaid on the terminal:\n{said}"
    return outcome, what


def _read(name: str, folder: Path) -> tuple[str, str]:
    from tests.fuzz.readers import READERS

    reader = READERS[name]
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        reader.read(folder)
        return "value", ""
    except reader.raises as error:
        return "error", type(error).__name__
    except BaseException:  # anything else is what is looked for
        return "failure", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def main(arguments: list[str]) -> None:
    """Reads the inputs of the command line."""
    folder = Path(arguments[0])
    stderr = _watch_stderr()
    signal.signal(signal.SIGPROF, _too_slow)
    for task in arguments[1:]:
        reader, seed, first, count = task.split(":")
        for number in range(int(first), int(first) + int(count)):
            _empty(folder)
            print(json.dumps({"reader": reader, "number": number}), flush=True)
            make_input(reader, int(seed), number, folder)
            if number == int(first):
                _limit_memory()
            before = resource.getrusage(resource.RUSAGE_SELF)
            stderr.read()
            outcome, what = read_input(reader, folder, stderr)
            after = resource.getrusage(resource.RUSAGE_SELF)
            seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            more = (after.ru_maxrss - before.ru_maxrss) * 1024
            result = {"outcome": outcome, "what": what, "seconds": seconds, "bytes": more}
            print(json.dumps(result), flush=True)


def _watch_stderr() -> BinaryIO:
    """A file that libraries of C write to as well, read from where it was read last."""
    with tempfile.NamedTemporaryFile() as written:
        os.dup2(os.open(written.name, os.O_WRONLY | os.O_APPEND), 2)
        return Path(written.name).open("rb")


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MORE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.chdir(folder)


def _too_slow(*_: object) -> None:
    raise TooSlow(f"more than {CPU_SECONDS} s of CPU time")


if __name__ == "__main__":
    main(sys.argv[1:])
