"""From a stream of images to the rows of a shard."""

import collections
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol, TypeVar

import jax
import numpy as np

from dino_jax.data.pipeline import Batch
from dino_jax.data.sources import ImageSource, Record
from dino_jax.embedding.embedder import Embed
from dino_jax.embedding.shards import Rows
from dino_jax.foreign.names import printable

MOST_EXPLAINED = 20
AHEAD = 2  # batches that the devices may lag behind the decoding


class Subset:
    """Some images of a source, as a source."""

    def __init__(self, source: ImageSource, indices: np.ndarray):
        """The images `indices` [n] of `source`, in this order."""
        self._source, self._indices = source, indices
        self.class_names = source.class_names

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Record:
        return self._source[int(self._indices[index])]

    def name(self, index: int) -> str:
        return self._source.name(int(self._indices[index]))


class Row(NamedTuple):
    """One image: vector [d] (of a black image if it is unreadable), printable name and class.

    Attributes:
      reason: of an unreadable one, its name and why it cannot be read.
    """

    vector: np.ndarray
    readable: bool
    name: str
    label: str | None
    reason: str = ""


def shard_range(shard: int, images: int, total: int) -> np.ndarray:
    """Indices of the images of a shard."""
    return np.arange(shard * images, min((shard + 1) * images, total))


def embed_rows(embedder: Embed, stream: Iterable[Batch], source: ImageSource) -> Iterator[Row]:
    """A row per image, in order; the devices work while the next batches are decoded."""
    running: collections.deque[tuple[jax.Array, Batch]] = collections.deque()

    def finish() -> Iterator[Row]:
        vectors, batch = running.popleft()
        return rows_of(np.asarray(vectors), batch, source)

    for batch in stream:
        running.append((embedder(batch["image"]), batch))
        if len(running) > AHEAD:
            yield from finish()
    while running:
        yield from finish()


def rows_of(vectors: np.ndarray, batch: Batch, source: ImageSource) -> Iterator[Row]:
    """The rows of one batch, [b, d] vectors."""
    for row, vector in enumerate(vectors):
        readable, label = bool(batch["valid"][row]), int(batch["label"][row])
        lost = int(batch["unreadable"][row])
        name = printable(batch["name"][row]) if readable else source.name(lost)
        named = 0 <= label < len(source.class_names)
        class_name = printable(source.class_names[label]) if named else None
        yield Row(vector, readable, name, class_name, batch["reason"][row])


class Explained(Protocol):
    """A row that knows why it has no image, if it has none."""

    @property
    def reason(self) -> str: ...


R = TypeVar("R", bound=Explained)


def say_reasons(rows: Iterable[R]) -> Iterator[R]:
    """The rows; says on stderr why the first `MOST_EXPLAINED` unreadable images are left out."""
    lost = 0
    for row in rows:
        lost += bool(row.reason)
        if row.reason and lost <= MOST_EXPLAINED:
            print(f"unreadable image, left out: {row.reason}", file=sys.stderr, flush=True)
        yield row


def collect(rows: Iterable[Row]) -> Rows:
    """The content of a shard."""
    every = list(rows)
    readable = [row for row in every if row.readable]
    return Rows(
        np.stack([row.vector for row in every])[[row.readable for row in every]],
        [row.name for row in readable],
        [row.label for row in readable],
        [row.name for row in every if not row.readable],
    )
