"""Where the work on the shards of a pool is done: here, or in the workers of Apache Beam.

A command is written once, as tasks: pure functions of a shard and of files that earlier tasks have
written. A runner does them in any order and in any place; what they add up is exact, and what they
group is sorted, so the result has the same bytes.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from dino_jax.commands.progress import Progress

Summand = tuple[int, np.ndarray]  # key and what is added up
Member = tuple[int, Any]  # key and one of the things that are grouped


class Grouped(NamedTuple):
    """A task in two steps: members by key, then something made of all members of a key.

    Attributes:
      emit: of a shard and a range of keys, the members with these keys.
      reduce: of a key and its members in any order; writes a file.
      keys: keys are 0 to keys - 1.
      passes: in how many parts of the keys one process may do it, for the sake of its memory.
    """

    emit: Callable[[int, range], Iterable[Member]]
    reduce: Callable[[int, list[Any]], None]
    keys: int
    passes: int


class Runner(Protocol):
    """Does tasks; functions and what they hold must be picklable."""

    is_local: bool

    def each(self, title: str, task: Callable[[int], None], shards: Sequence[int]) -> None:
        """Calls `task`, which writes a file, for all shards."""
        ...

    def total(
        self, title: str, task: Callable[[int], Iterable[Summand]], shards: Sequence[int]
    ) -> dict[int, np.ndarray]:
        """Adds up by key what `task` gives for all shards; the sums must be exact."""
        ...

    def grouped(self, title: str, task: Grouped, shards: Sequence[int]) -> None:
        """Does a task in two steps."""
        ...


class LocalRunner:
    """One process, shard after shard."""

    is_local = True

    def each(self, title: str, task: Callable[[int], None], shards: Sequence[int]) -> None:
        progress = Progress(title, len(shards), "shards")
        for done, shard in enumerate(shards, start=1):
            task(shard)
            progress.show(done)
        progress.close()

    def total(
        self, title: str, task: Callable[[int], Iterable[Summand]], shards: Sequence[int]
    ) -> dict[int, np.ndarray]:
        sums: dict[int, np.ndarray] = {}
        for shard in shards:
            for key, array in task(shard):
                if key in sums:
                    sums[key] += array
                else:
                    sums[key] = array.copy()
        return sums

    def grouped(self, title: str, task: Grouped, shards: Sequence[int]) -> None:
        progress = Progress(title, task.keys, "cells")
        step = -(-task.keys // max(1, task.passes))
        for first in range(0, task.keys, step):
            some = range(first, min(first + step, task.keys))
            members: dict[int, list[Any]] = {}
            for shard in shards:
                for key, member in task.emit(shard, some):
                    members.setdefault(key, []).append(member)
            for done, key in enumerate(sorted(members), start=first + 1):
                task.reduce(key, members.pop(key))
                progress.show(done)
        progress.close()
