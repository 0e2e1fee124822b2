"""What is tuned on: photographs with vectors and SKUs, of an index or of `dino-jax embed`."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from dino_jax.config.section import suggest
from dino_jax.embedding.embed import PROJECTION
from dino_jax.embedding.embedded import PLAN, read_embedded
from dino_jax.embedding.projection import load_projection
from dino_jax.search.build import origin_of_plan, photos_of_plan
from dino_jax.search.index import open_index
from dino_jax.search.manifest import ADAPTER, MANIFEST, Origin, require_one_model
from dino_jax.search.metadata import read_table
from dino_jax.search.origin import describe_vectors, open_projection
from dino_jax.tuning.guard import to_unit
from dino_jax.tuning.skus import Skus, read_pairs, skus_of_pairs, skus_of_values


class Catalogue(NamedTuple):
    """Photographs to tune on.

    Attributes:
      place: the index or folder that they come from.
      names: of the photographs.
      vectors: [N, D] float32 of length 1.
      skus: of the photographs.
      origin: how the vectors were made.
      described: the same for adapter.json.
      folder: of the photographs; "" if it is not known.
      categories: [N] numbers of their categories, `skus.NONE` without one; None: not asked for.
    """

    place: Path
    names: list[str]
    vectors: np.ndarray
    skus: Skus
    origin: Origin
    described: dict[str, Any]
    folder: str
    categories: np.ndarray | None = None


def open_catalogue(arguments: argparse.Namespace) -> Catalogue:
    """Opens the source of the command line.

    Raises:
      ValueError: if it names no SKUs, or the index is one of adapted vectors or several models.
      OSError: if it cannot be read.
    """
    place = Path(arguments.source).expanduser()
    if (place / MANIFEST).exists():
        return _open_index(place, arguments)
    if (place / PLAN).exists():
        return _open_embedded(place, arguments)
    raise FileNotFoundError(
        f"SOURCE={place} is neither an index of dino-jax search (no {MANIFEST}) nor a folder of "
        f"dino-jax embed (no {PLAN}); make one with dino-jax search build INDEX MODEL PHOTOS"
    )


def _open_index(place: Path, arguments: argparse.Namespace) -> Catalogue:
    index = open_index(place)
    manifest = index.manifest
    require_one_model(manifest, place)
    if ADAPTER in manifest.single:
        raise ValueError(
            f"{place} holds vectors that an adapter has changed already; tune on the index, or the "
            "folder of dino-jax embed, that it was built from"
        )
    if manifest.others:
        raise ValueError(f"{place} has vectors of several models; tune on an index of one")
    numbers = [number for number, _ in index.rows()]
    names = [index.row(number).name for number in numbers]

    def column(name: str) -> list[Any]:
        values = index.column(name)
        return [values[number] for number in numbers]

    described = describe_vectors(manifest.origin, open_projection(manifest, place))
    return Catalogue(
        place,
        names,
        to_unit(index.vectors(numbers)),
        _find_skus(arguments, names, column),
        manifest.origin,
        described,
        manifest.photos,
        _find_categories(arguments, names, column),
    )


def _open_embedded(place: Path, arguments: argparse.Namespace) -> Catalogue:
    plan, shards = read_embedded(place, "SOURCE")
    parts = [part for shard in range(shards.count) if (part := shards.read(shard)).names]
    if not parts:
        raise ValueError(f"{place} has no vectors")
    names = [name for part in parts for name in part.names]

    def column(name: str) -> list[Any]:
        if name != "label":
            raise ValueError(
                f"{place} has no column {name}; it knows the sub-folders of the photos, label; "
                "pass --metadata=TABLE for others"
            )
        return [label for part in parts for label in part.labels]

    origin = origin_of_plan(plan, parts[0])
    projection = load_projection(epath.Path(place / PROJECTION)) if origin.reduced else None
    return Catalogue(
        place,
        names,
        to_unit(np.concatenate([part.vectors for part in parts])),
        _find_skus(arguments, names, column),
        origin,
        describe_vectors(origin, projection),
        photos_of_plan(plan),
        _find_categories(arguments, names, column),
    )


def _find_skus(
    arguments: argparse.Namespace, names: list[str], column: Callable[[str], list[Any]]
) -> Skus:
    """SKUs of --pairs, of a column of --metadata, or of one that the source has."""
    if arguments.pairs:
        places = {name: place for place, name in enumerate(names)}
        return skus_of_pairs(read_pairs(arguments.pairs, places), names)
    return skus_of_values(_find_values(arguments, "sku", names, column))


def _find_categories(
    arguments: argparse.Namespace, names: list[str], column: Callable[[str], list[Any]]
) -> np.ndarray | None:
    if not arguments.category:
        return None
    return skus_of_values(_find_values(arguments, "category", names, column)).of


def _find_values(
    arguments: argparse.Namespace,
    option: str,
    names: list[str],
    column: Callable[[str], list[Any]],
) -> list[Any]:
    """The column that an option names, of --metadata or of the source."""
    name = getattr(arguments, option)
    if not arguments.metadata:
        return column(name)
    table = read_table(arguments.metadata, arguments.key)
    columns = next(iter(table.values()))
    if name not in columns:
        raise ValueError(
            f"{arguments.metadata} has no column --{option}={name}; {suggest(name, columns)}"
        )
    return [table.get(photo, {}).get(name) for photo in names]
