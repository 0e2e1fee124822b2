"""The vectors of a second model that `dino-jax embed` has made, beside those of the first."""

import argparse
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dino_jax.embedding.embedded import read_embedded
from dino_jax.embedding.shards import Shards
from dino_jax.search.codes import unit_rows
from dino_jax.search.manifest import Origin
from dino_jax.search.mixture import join
from dino_jax.search.origin import fingerprint_of
from dino_jax.search.segment import Row
from dino_jax.search.writer import Blocks
from dino_jax.weights.model import load
from dino_jax.workdir.paths import absolute_path

OPTION = "--other-from"


class Second(NamedTuple):
    """A folder of vectors, and how they were made."""

    place: Path
    origin: Origin
    shards: Shards

    def beside(self, blocks: Blocks) -> Iterator[tuple[np.ndarray, Sequence[Row]]]:
        """Rows of the first model, with the vectors of the second behind them.

        Raises:
          ValueError: if both folders hold other photographs.
        """
        shards = map(self.shards.read, range(self.shards.count))
        filled = (shard for shard in shards if len(shard.names))
        for block, shard in itertools.zip_longest(blocks, filled):
            names = [row.name for row in block[1]] if block else []
            theirs = [str(name) for name in shard.names] if shard else []
            if names != theirs:
                raise ValueError(
                    f"{OPTION}={self.place} and --from hold other photos, or in another order: "
                    f"{len(theirs):,} and {len(names):,} in one shard; embed the same photos with "
                    "the same --shard-images"
                )
            vectors, rows = block
            yield unit_rows(join([vectors, shard.vectors]).astype(np.float32)), rows


def open_second(arguments: argparse.Namespace, first_plan: dict[str, Any], first: Shards) -> Second:
    """Opens the folder that --other-from names.

    Args:
      arguments: with other_from, and other, the model that made it, "" if it is not at hand.
      first_plan: embed.json of the first folder.
      first: its shards.

    Raises:
      ValueError: if it is not of the same photographs, was reduced, or made by another model.
      OSError: if it is not there.
    """
    place = Path(arguments.other_from).expanduser()
    plan, shards = read_embedded(place, OPTION)
    differing = [name for name in ("images", "names") if plan.get(name) != first_plan.get(name)]
    if differing or shards.count != first.count:
        raise ValueError(
            f"{OPTION}={place} is of other photos than --from, or has other shards ({shards.count} "
            f"and {first.count}); embed the same ones with the same --shard-images"
        )
    if plan["reduce"] != "none":
        raise ValueError(f"{OPTION}={place} was reduced; embed without --reduce")
    origin = Origin(
        model=plan["model"],
        fingerprint="",
        path="",
        step=None,
        image_size=int(plan["image_size"]),
        tokens=plan["tokens"],
        layers=int(plan["layers"]),
        reduced=False,
        dim=shards.read(0).vectors.shape[1],
    )
    if arguments.other:
        model = load(arguments.other)
        if model.title != origin.model:
            raise ValueError(f"{place} was made by {origin.model}, --other is {model.title}")
        path = str(absolute_path(arguments.other))
        origin = dataclasses.replace(origin, fingerprint=fingerprint_of(model), path=path)
    return Second(place, origin, shards)
