"""Sharing of an evaluation's images and work between processes, and gathering of the parts."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from dino_jax.commands.progress import Progress
from dino_jax.data.sources import ImageSource
from dino_jax.data.sources.base import Contents, PackedNames
from dino_jax.data.sources.contents import contents_of, describe_contents
from dino_jax.processes.agreement import Agreement, open_alike

SAME_IMAGES = "All hosts need the same images in the same order: copy them again."

Opened = TypeVar("Opened")


def open_same(
    agreement: Agreement,
    read: Callable[[], Opened],
    parts: Callable[[Opened], Mapping[str, ImageSource | list[str]]],
) -> Opened:
    """Opens the images of an evaluation, which must be the same on all processes.

    Args:
      agreement: agreement of all processes.
      read: opens them.
      parts: sources or files by the name that a message has for them.

    Raises:
      ValueError: on all processes, if one cannot open them, or they differ.
      OSError: as the ValueError, with a single process.
    """

    def describe(opened: Opened) -> dict[str, Any]:
        contents: dict[str, Contents] = {}
        for name, part in parts(opened).items():
            if isinstance(part, list):
                contents[name] = Contents(len(part), PackedNames(part))
            else:
                contents |= contents_of(name, part)
        return describe_contents(contents)

    if jax.process_count() == 1:
        return read()
    return open_alike(agreement, read, describe, SAME_IMAGES)[0]


def own_share(count: int, title: str, unit: str = "images") -> Iterator[int]:
    """Indices of this process's share; process 0 shows progress."""
    mine = range(jax.process_index(), count, jax.process_count())
    return counted(mine, title, len(mine), unit)


def counted(items: Iterable[Any], title: str, total: int, unit: str = "images") -> Iterator[Any]:
    """Yields the items; process 0 shows progress."""
    if jax.process_index():
        yield from items
        return
    with contextlib.closing(Progress(title, total, unit)) as progress:
        for done, item in enumerate(items):
            yield item
            progress.show(done + 1)


def from_all(array: np.ndarray) -> np.ndarray:
    """[P, ...] arrays of all processes, in the dtype they have."""
    if jax.process_count() == 1:
        return array[None]
    # As bytes: jax would turn 64 bits into 32.
    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    gathered = np.asarray(multihost_utils.process_allgather(raw))
    return gathered.view(array.dtype).reshape(-1, *array.shape)


def gather_sum(array: np.ndarray) -> np.ndarray:
    """The sum of the arrays of all processes."""
    return from_all(array).sum(axis=0)


def gather_any(array: np.ndarray) -> np.ndarray:
    """Where the bool array of any process is true."""
    return np.asarray(from_all(array).any(axis=0))


def gather_rows(rows: np.ndarray) -> np.ndarray:
    """[n, ...] rows of all processes, concatenated."""
    counts = from_all(np.array(len(rows))).reshape(-1)
    if not counts.any():
        return rows
    padded = np.zeros((counts.max(), *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    return np.concatenate(
        [part[:count] for part, count in zip(from_all(padded), counts, strict=True)]
    )
