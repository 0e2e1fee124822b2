"""The memory of the host: how much there is, and how a process keeps what it has freed."""

import ctypes
import os
from pathlib import Path

# Parameters of mallopt(3), with the numbers of malloc.h.
_MMAP_MAX = -4  # blocks that the system maps one by one
_TRIM_THRESHOLD = -1  # free bytes at the end of the heap that are given back; -1: never
_ARENA_MAX = -8  # heaps of all threads


def keep_freed_memory(most: int = -1) -> bool:
    """Makes glibc's malloc keep freed memory for reuse instead of returning it to the system.

    A step on CPUs allocates its temporary arrays anew, all at once and hundreds of MB. Unless the
    process keeps them, the system clears every page again in every step: a quarter of the CPU time
    of a ViT-S/16. Memory use never falls below its peak.

    Must run before jax starts its threads: memory of a thread with a heap of its own is always
    given back.

    Args:
      most: bytes that are kept, below 2 GiB; -1 for all.

    Returns:
      Whether malloc has taken the settings. C libraries other than glibc have none of them;
      nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, most), (_ARENA_MAX, 1))
    return mallopt is not None and all(mallopt(*pair) for pair in settings)


def memory_of_host(limit: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Bytes of memory that this process can have: the machine's, or the limit of its container."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(machine, int(limit.read_text()))
    except (OSError, ValueError):  # no container, or "max"
        return machine
