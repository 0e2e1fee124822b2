"""One command at a time writes into a workdir or another folder: lock.json says which one.

The file names host, process and the time of its start, and while the command runs it is written
again every `BEAT_SECONDS`. A lock that nobody holds any more is taken over:

  on the same machine      at once: the process is gone, or its number belongs to another one
  of another machine, or   after `SILENT_SECONDS` without a new beat, measured by the clock of the
  container                one who waits: clocks of hosts are never compared

Of several commands that start together one gets the lock. On local file systems that is certain.
Object stores, and file systems without locks, only let us write, wait `SETTLE_SECONDS` and read
back who wrote last: two could hold the lock if the write of one took longer than that. Then, and if
a process that was suspended comes back after it was taken for dead, the next beat tells one of the
two that the lock is not its own any more, and it ends.
"""

import contextlib
import dataclasses
import datetime
import json
import os
import socket
import sys
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from etils import epath

from dino_jax.workdir.layout import LOCK_JSON
from dino_jax.workdir.paths import absolute_path, is_remote, make_writable, write_atomically
from dino_jax.workdir.side_files import DamagedFileError, require_regular, set_aside

BEAT_SECONDS = 10.0
SILENT_SECONDS = 60.0
SETTLE_SECONDS = 3.0
LOOK_SECONDS = 1.0  # between two looks at the lock of another machine
ALONE_SECONDS = 5.0  # for a lock of the file system, which a launcher (`flock WORKDIR`) may hold


@dataclasses.dataclass(frozen=True)
class Holder:
    """Content of lock.json; every field may be "" or 0 in a damaged one.

    Attributes:
      token: unique to one start.
      host: name of the host.
      machine: this boot of the machine and the process numbers of one container on it; "" where
        that is unknown.
      pid: process number there.
      born: start of the process in ticks since the boot, to tell it from another with its number.
      since: start of the command, UTC, for people.
      beat: number of the sign of life.
    """

    token: str = ""
    host: str = ""
    machine: str = ""
    pid: int = 0
    born: int = 0
    since: str = ""
    beat: int = 0

    def __str__(self) -> str:
        if not self.pid:
            return "a command whose lock cannot be read"
        return f"process {self.pid} on {self.host}, since {self.since} UTC"


class Newer(Holder):
    """Who holds a lock with fields that this version does not know: nothing in it is understood."""

    def __str__(self) -> str:
        return "a command of a newer version of dino_jax"


class Lock:
    """A lock that this process holds; beats and the release may come from two threads."""

    def __init__(self, path: epath.Path, holder: Holder, made: list[Path]):
        """Takes over a lock that was just written; `made` are folders to remove if empty."""
        self._path, self._holder, self._made = path, holder, made
        self._turn, self._released = threading.Lock(), False

    def beat(self) -> str:
        """Gives a sign of life; returns who has taken the lock away, "" for nobody.

        Raises:
          OSError: if the storage cannot be reached, among other errors of object stores.
        """
        with self._turn:
            if self._released:
                return ""
            found = _read(self._path)
            if found is not None and not self._is_ours(found):
                return str(_parse(found))
            self._holder = dataclasses.replace(self._holder, beat=self._holder.beat + 1)
            _write(self._path, self._holder)
            return ""

    def release(self) -> None:
        """Removes the lock, and the folders that were made for nothing but it."""
        with self._turn:
            self._released = True
            found = _read(self._path)
            if found is not None and self._is_ours(found):
                self._path.unlink()
            with contextlib.suppress(OSError):  # not empty: the training has written into it
                for folder in self._made:
                    folder.rmdir()

    def _is_ours(self, found: str) -> bool:
        """Whether nobody else has written the lock; a damaged one names nobody."""
        return _parse(found).token in ("", self._holder.token)


def take_lock(
    place: epath.PathLike, say: Callable[[str], object], option: str = "--workdir"
) -> Lock:
    """Takes the lock of a folder, which is made if there is none; only process 0 calls it.

    Args:
      place: local or gs://.
      say: gets a line if the lock of a dead process is taken over, or it takes time to know.
      option: option that names the folder, for messages.

    Raises:
      ValueError: if another process holds it.
      OSError: if the folder cannot be made or written, or is a file.
    """
    folder = absolute_path(place)
    made = [] if is_remote(folder) else _missing(Path(folder))
    make_writable(folder, option)
    path, mine = folder / LOCK_JSON, _this_process()
    wait = _Wait(folder, say, option)
    while True:
        with _alone(folder) as alone:
            found = _read(path)
            if found is None:
                taken = _create(path, mine)
            elif taken := wait.is_over(_parse(found)):
                _write(path, mine)
        if taken and not alone:
            time.sleep(SETTLE_SECONDS)
            found = _read(path)
            taken = found is not None and _parse(found).token == mine.token
        if taken:
            return Lock(path, mine, made)
        time.sleep(LOOK_SECONDS if found else 0)


class _Wait:
    """Finds out whether the one who holds a lock is alive."""

    def __init__(self, folder: epath.Path, say: Callable[[str], object], option: str):
        self._folder, self._say, self._option = f"{option.strip('-')} {folder}", say, option
        self._first: Holder | None = None  # as it was at the first look
        self._since = 0.0

    def is_over(self, holder: Holder) -> bool:
        """Whether the holder is dead; False: look again soon.

        Raises:
          ValueError: if it is alive.
        """
        if isinstance(holder, Newer):
            raise ValueError(
                f"{self._folder} is held by a newer version of dino_jax, whose {LOCK_JSON} this "
                "one does not understand. Use that version; or, if its command has ended, remove "
                f"{LOCK_JSON} from the folder and run the same command again"
            )
        alive = _is_alive(holder)
        if self._first is None or holder.token != self._first.token:
            self._first, self._since = holder, time.monotonic()
            if alive is None:
                self._say(
                    f"{self._folder} belongs to {holder}; waiting up to "
                    f"{SILENT_SECONDS:.0f} s for a sign of life ({LOCK_JSON})"
                )
        if alive is None and holder.beat != self._first.beat:
            alive = True
        if alive is None and time.monotonic() - self._since >= SILENT_SECONDS:
            alive = False
        if alive:
            raise ValueError(
                f"{self._folder} is in use by {holder}; two commands that write into one folder "
                "would destroy each other's files. Wait until it has ended, or end it (kill "
                f"{holder.pid} there), then run the same command again; or use another "
                f"{self._option}"
            )
        if alive is False:
            self._say(f"{self._folder} is free: {holder} has ended without saying so")
        return alive is False


def _is_alive(holder: Holder) -> bool | None:
    """Whether the process of a holder lives; None if that cannot be seen from here."""
    machine = _machine()
    if not machine or holder.machine != machine or holder.pid < 1:
        return None
    try:
        os.kill(holder.pid, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except OSError:  # of another user, so that /proc may hide it
        return None
    born = _born(holder.pid)
    if born is None:
        return False
    return born == holder.born if born and holder.born else None


def _this_process() -> Holder:
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    return Holder(
        token=uuid.uuid4().hex,
        host=socket.gethostname(),
        machine=_machine(),
        pid=os.getpid(),
        born=_born(os.getpid()) or 0,
        since=now.isoformat(" ", "seconds"),
    )


def _machine() -> str:
    """What is the same for all processes that see each other's numbers; "" if that is unknown."""
    if not sys.platform.startswith("linux"):
        return ""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _born(pid: int) -> int | None:
    """Start of a process in ticks since the boot.

    Returns:
      0 where the system does not say; None if there is no such process, or only a zombie.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # proc(5)
        return None if fields[0] in "ZX" else int(fields[19])
    except (FileNotFoundError, ProcessLookupError):
        return None
    except (OSError, ValueError, IndexError):
        return 0


@contextlib.contextmanager
def _alone(folder: epath.Path) -> Iterator[bool]:
    """Keeps other processes out of the same block; gives whether it does."""
    if is_remote(folder):
        yield False
        return
    import fcntl  # not on Windows

    with contextlib.ExitStack() as stack:
        try:
            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            until = time.monotonic() + ALONE_SECONDS
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= until:
                        raise
                time.sleep(0.02)
        except OSError:
            yield False
            return
        yield True


def _read(path: epath.Path) -> str | None:
    try:
        require_regular(path)
        return path.read_bytes().decode(errors="replace")
    except DamagedFileError as error:
        set_aside(path, error, "nobody holds it")
    except FileNotFoundError:
        pass
    return None


def _parse(text: str) -> Holder:
    try:
        content = json.loads(text)
        kinds = {field.name: type(field.default) for field in dataclasses.fields(Holder)}
        if isinstance(content, dict) and not content.keys() <= kinds.keys():
            return Newer(token="newer")
        holder = Holder(**content)
        if all(isinstance(getattr(holder, name), kind) for name, kind in kinds.items()):
            return holder
    except (TypeError, ValueError, RecursionError):
        pass
    return Holder(beat=zlib.crc32(text.encode()))  # damaged


def _create(path: epath.Path, holder: Holder) -> bool:
    """Writes the lock if there is none; returns whether there was none."""
    text = json.dumps(dataclasses.asdict(holder)) + "\n"
    if is_remote(path):
        path.write_text(text)
        return True
    try:
        with Path(path).open("x") as file:
            file.write(text)
    except FileExistsError:
        return False
    return True


def _write(path: epath.Path, holder: Holder) -> None:
    write_atomically(path, json.dumps(dataclasses.asdict(holder)) + "\n")


def _missing(folder: Path) -> list[Path]:
    """Folders that have to be made for a folder to be there, the innermost first."""
    return [each for each in (folder, *folder.parents) if not each.exists()]
