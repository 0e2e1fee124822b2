"""Indexes of made vectors, without a model."""

import dataclasses
from pathlib import Path

import numpy as np

from dino_jax.search.codes import unit_rows
from dino_jax.search.index import Index, open_index
from dino_jax.search.manifest import Manifest, Origin
from dino_jax.search.segment import Row
from dino_jax.search.writer import writing

DIM = 24
ORIGIN = Origin("made", "", "", None, 32, "cls", 1, False, DIM)


def manifest(dim: int = DIM, photos: str = "") -> Manifest:
    return Manifest(dataclasses.replace(ORIGIN, dim=dim), photos)


def vector_of(name: str, dim: int = DIM) -> np.ndarray:
    """[dim] float16 that the name determines."""
    seed = int.from_bytes(name.encode()[:32].ljust(32, b"."), "little")
    return unit_rows(np.random.default_rng(seed).normal(size=(1, dim)))[0]


def make_index(folder: Path, names: list[str], table=None, labels=None, photos: str = "") -> Index:
    """An index of one segment."""
    rows = [Row(name, labels[i] if labels else None) for i, name in enumerate(names)]
    with writing(folder, manifest(photos=photos)) as writer:
        writer.add([(np.stack([vector_of(name) for name in names]), rows)])
        if table is not None:
            writer.set_table(table)
        writer.commit()
    return open_index(folder)


def change(writer, generation: int, live: list[str]) -> list[str]:
    """The commit that makes a generation of a random history; returns the names that live then."""
    rng = np.random.default_rng(generation)
    if generation % 5 == 0:
        writer.compact()
        return live
    numbers = {row.name: number for number, row in Index(writer.folder, writer.manifest).rows()}
    new = [f"{generation}-{i}" for i in range(int(rng.integers(1, 30)))]
    gone = [name for name in live if rng.random() < 0.3]
    writer.remove([numbers[name] for name in gone])
    writer.add([(np.stack([vector_of(name) for name in new]), [Row(name) for name in new])])
    writer.commit()
    return next_names(generation, live)


def next_names(generation: int, live: list[str]) -> list[str]:
    """What `change` leaves, without an index."""
    rng = np.random.default_rng(generation)
    if generation % 5 == 0:
        return live
    new = [f"{generation}-{i}" for i in range(int(rng.integers(1, 30)))]
    return [name for name in live if rng.random() >= 0.3] + new


def names_at(generation: int) -> list[str]:
    live: list[str] = []
    for number in range(1, generation + 1):
        live = next_names(number, live)
    return live


def require_generation(folder: Path) -> int:
    """Opens an index of this history; its rows and its answers must be those of its generation."""
    index = open_index(folder)
    names = names_at(index.manifest.generation)
    assert [row.name for _, row in index.rows()] == names
    if names:
        query = vector_of("query")
        rows = np.stack([vector_of(name) for name in names]).astype(np.float64)
        scores = rows @ query / np.linalg.norm(rows, axis=1)
        found = index.search(query, 5)
        wanted = [names[i] for i in np.argsort(-scores, kind="stable")[:5]]
        assert [index.row(int(number)).name for number in found.rows] == wanted
    return index.manifest.generation
