"""The lock file by which libtpu keeps a second process away from the chips, and its holder."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

LOCK_FILE = Path("/tmp/libtpu_lockfile")


class LockState(NamedTuple):
    """Whether this process can use the chips, why, and what to do if not ("" if it can)."""

    free: bool
    text: str
    fix: str = ""


@dataclass(frozen=True)
class Holder:
    """A process that has a file open."""

    pid: int
    command: str


def find_holders(path: Path, proc: Path = Path("/proc")) -> list[Holder]:
    """The processes that have `path` open, as far as this user can see them."""
    holders = {}
    for link in proc.glob("[0-9]*/fd/*"):
        try:
            if link.samefile(path):
                folder = link.parent.parent
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").strip()
                holders[int(folder.name)] = command.decode(errors="replace")
        except OSError:  # it has just ended, or belongs to somebody else
            continue
    return [Holder(pid, command) for pid, command in sorted(holders.items())]


def find_lock(path: Path = LOCK_FILE) -> LockState:
    """The lock file of this machine; that this process has it open does not count."""
    holders = find_holders(path) if path.exists() else []
    others = [holder for holder in holders if holder.pid != os.getpid()]
    return judge_lock(path, others, os.access(path, os.W_OK))


def judge_lock(path: Path, holders: list[Holder], writable: bool) -> LockState:
    """Judges the lock file.

    Args:
      path: path of the file.
      holders: processes that have it open, without this one.
      writable: whether this user may write it.
    """
    if not path.exists():
        return LockState(True, f"no {path}: nobody uses the chips")
    if holders:
        who = ", ".join(f"{holder.pid} ({holder.command[:80]})" for holder in holders)
        first = holders[0].pid
        fix = f"wait for it, or stop it: kill -TERM {first} (a training then saves first)"
        return LockState(False, f"{path} is held by process {who}", fix)
    if not writable:
        owner = path.stat().st_uid
        text = f"{path} belongs to user {owner}, and this user may not write it"
        fix = f"if no process of that user runs (sudo lsof {path}): sudo rm {path}"
        return LockState(False, text, fix)
    return LockState(True, f"{path} is left over from an earlier process: harmless")
