"""An adapter of `dino-jax tune` in an index: rows and queries go through it."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dino_jax.embedding.adapter import Adapter, load_adapter, open_adapter, require_same_origin
from dino_jax.embedding.projection import Projection
from dino_jax.search.codes import unit_rows
from dino_jax.search.manifest import ADAPTER, Origin
from dino_jax.search.origin import describe_vectors
from dino_jax.search.writer import Blocks, Writer


class Tuned(NamedTuple):
    """A folder of `dino-jax tune`: its place, its adapter and adapter.json."""

    place: Path
    adapter: Adapter
    facts: dict[str, Any]

    def adapt_origin(self, origin: Origin, projection: Projection | None) -> Origin:
        """The origin of adapted vectors.

        Raises:
          ValueError: if the adapter was tuned on other vectors; names what differs.
        """
        vectors = describe_vectors(origin, projection)
        require_same_origin(self.place, self.facts, self.adapter, vectors)
        return dataclasses.replace(origin, dim=len(self.adapter.bias))

    def adapt(self, blocks: Blocks) -> Blocks:
        """Rows of an index, adapted."""
        return _adapt(self.adapter, blocks)

    def keep(self, writer: Writer) -> None:
        """Puts the adapter into an index that has none.

        Raises:
          ValueError: if it has another one.
        """
        file = writer.manifest.single.get(ADAPTER)
        if file is None:
            writer.set_adapter(self.adapter)
            return
        theirs = load_adapter(writer.folder / file.name)
        if not all(map(np.array_equal, theirs, self.adapter)):
            raise ValueError(f"{writer.folder} has another adapter; choose another folder")


def _adapt(adapter: Adapter, blocks: Blocks) -> Iterator[tuple[np.ndarray, Any]]:
    for vectors, rows in blocks:
        yield unit_rows(adapter.rows(vectors)), rows


def open_tuned(path: str) -> Tuned | None:
    """Opens the folder that --adapter names; None for "".

    Raises:
      ValueError: if a file in it is not the one that was written.
      OSError: if it is not there.
    """
    if not path:
        return None
    place = Path(path).expanduser()
    return Tuned(place, *open_adapter(place))
