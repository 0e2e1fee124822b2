"""Near-copies in a large pool: rows are compared inside of cells, and each lies in several.

The recall of that is measured on rows that are compared with all others.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath

from dino_jax.curation.groups import (
    Edges,
    edges_between,
    edges_within,
    nearest_edges,
    semdedup,
    semdedup_order,
)
from dino_jax.curation.kmeans import lloyd
from dino_jax.curation.nearest import centers_of, nearest_few
from dino_jax.curation.pool import Pool, load_array
from dino_jax.curation.runner import Member
from dino_jax.curation.shard_kmeans import random_state, sample_rows, shard_file
from dino_jax.curation.work import save_array

SMALL = 4096  # rows that are one cell
PER_CELL = 10  # rows of the sample for each cell, and at least
SAMPLE = 20_000
ITERATIONS = 10
PROBES = (2, 3, 4, 6, 8, 12, 16)  # cells of a row that are tried


def count_cells(rows: int) -> int:
    """The default number of cells."""
    return 1 if rows <= SMALL else round(rows**0.5)


def find_cells(pool: Pool, count: int, seed: int) -> np.ndarray:
    """[count, d] float64 centers of cells: k-means of a sample, with seeds at random."""
    numbers = sample_rows(pool, max(SAMPLE, PER_CELL * count))
    rows = pool.gather(numbers)
    count = min(count, len(rows))
    seeds = random_state(seed, 0, 0).permutation(len(rows))[:count]
    return lloyd(rows, rows[np.sort(seeds)], ITERATIONS).centroids


@dataclass
class ExactTask:
    """Compares some rows with all rows of a shard, and writes the edges.

    Attributes:
      pool: the rows.
      queries: file with [q] numbers, and with [q, d] rows under the name + "-rows".
      count: edges of a row at most.
      threshold: of the cosine.
      out: files are `out`-SHARD.npy, edges as [m, 3] float64.
    """

    pool: Pool
    queries: str
    count: int
    threshold: float
    out: str

    def __call__(self, shard: int) -> None:
        numbers, rows = load_array(f"{self.queries}.npy"), load_array(f"{self.queries}-rows.npy")
        part = self.pool.part(shard)
        found = edges_between(numbers, rows, part.numbers, part.vectors, self.count, self.threshold)
        save_edges(shard_file(self.out, shard), found)


@dataclass
class LikeTask:
    """For each row of a shard the most similar one of a few others above a threshold.

    Attributes: as of `ExactTask`; `queries` are the others.
    """

    pool: Pool
    queries: str
    threshold: float
    out: str

    def __call__(self, shard: int) -> None:
        numbers, rows = load_array(f"{self.queries}.npy"), load_array(f"{self.queries}-rows.npy")
        part = self.pool.part(shard)
        found = edges_between(part.numbers, part.vectors, numbers, rows, 1, self.threshold)
        save_edges(shard_file(self.out, shard), found)


@dataclass
class CellsTask:
    """Writes the nearest cells of each row of a shard.

    Attributes:
      pool: the rows.
      centers: file with [K, d] float64.
      probes: cells of a row.
      out: files are `out`-SHARD.npy, [m, probes] int32.
    """

    pool: Pool
    centers: str
    probes: int
    out: str

    def __call__(self, shard: int) -> None:
        centers = centers_of(load_array(self.centers))
        found, _ = nearest_few(self.pool.part(shard).vectors, centers, self.probes)
        save_array(shard_file(self.out, shard), found)


@dataclass
class EmitCells:
    """The rows of a shard by cell; `Grouped.emit`.

    Attributes:
      pool: the rows.
      cells: name of the files of `CellsTask`.
    """

    pool: Pool
    cells: str

    def __call__(self, shard: int, keys: range) -> Iterator[Member]:
        part, cells = self.pool.part(shard), load_array(shard_file(self.cells, shard))
        flat = cells.ravel()
        order = np.argsort(flat, kind="stable")
        found, firsts = np.unique(flat[order], return_index=True)
        ends = np.append(firsts[1:], len(flat))
        for cell, first, end in zip(found.tolist(), firsts, ends, strict=False):
            if cell in keys:
                rows = order[first:end] // cells.shape[1]
                yield cell, (part.numbers[rows], part.vectors[rows])


@dataclass
class WithinCell:
    """Compares the rows of a cell; `Grouped.reduce`.

    Attributes:
      count: edges of a row at most.
      threshold: of the cosine.
      out: files are `out`-CELL.npy.
    """

    count: int
    threshold: float
    out: str

    def __call__(self, cell: int, members: list[Any]) -> None:
        path = shard_file(self.out, cell)
        if not epath.Path(path).exists():
            numbers, vectors = _in_order(members)
            save_edges(path, edges_within(numbers, vectors, self.count, self.threshold))


@dataclass
class SemdedupCell:
    """SemDeDup's rule in a cell; `Grouped.reduce`. Edges go from a row that goes to its partner.

    Attributes:
      centers: file with the centers of the cells.
      epsilon: of the rule.
      out: files are `out`-CELL.npy.
    """

    centers: str
    epsilon: float
    out: str

    def __call__(self, cell: int, members: list[Any]) -> None:
        path = shard_file(self.out, cell)
        if not epath.Path(path).exists():
            numbers, vectors = _in_order(members)
            order = semdedup_order(vectors, load_array(self.centers)[cell])
            gone, partner, cosines = semdedup(vectors[order], self.epsilon)
            numbers = numbers[order]
            edges = Edges(numbers[gone], numbers[partner[gone]], cosines[gone])
            save_edges(path, edges)


def _in_order(members: Iterable[Any]) -> tuple[np.ndarray, np.ndarray]:
    numbers, vectors = (np.concatenate(column) for column in zip(*members, strict=True))
    order = np.argsort(numbers, kind="stable")
    return numbers[order], vectors[order]


def save_edges(path: str, edges: Edges) -> None:
    """Writes edges as one array; numbers of rows below 2^53 are exact in it."""
    save_array(path, np.stack([np.asarray(one, np.float64) for one in edges], axis=1))


def load_edges(paths: Iterable[str], count: int) -> Edges:
    """Reads edges; each once, and of each row the `count` nearest."""
    tables = [load_array(path) for path in paths if epath.Path(path).exists()]
    parts = [
        Edges(one[:, 0].astype(np.int64), one[:, 1].astype(np.int64), one[:, 2]) for one in tables
    ]
    return nearest_edges(parts, count)


def shared_cells(pool: Pool, edges: Edges, centers: np.ndarray, probes: int) -> float:
    """The share of edges whose ends have a cell in common; 1 without edges."""
    if not len(edges.rows):
        return 1.0
    involved, places = np.unique(np.concatenate([edges.rows, edges.others]), return_inverse=True)
    cells, _ = nearest_few(pool.gather(involved), centers_of(centers), probes)
    left, right = np.split(cells[places], 2)
    return float((left[:, :, None] == right[:, None, :]).any(axis=(1, 2)).mean())


def choose_probes(pool: Pool, edges: Edges, centers: np.ndarray, recall: float) -> int:
    """The fewest cells of a row with which enough of the edges are found.

    Args:
      pool: the rows.
      edges: of an exact search.
      centers: [K, d] of the cells.
      recall: share that must be found.
    """
    tried = [probes for probes in PROBES if probes <= len(centers)] or [1]
    for probes in tried:
        if shared_cells(pool, edges, centers, probes) >= recall:
            return probes
    return tried[-1]


def found_share(true: Edges, found: Edges) -> float:
    """The share of true edges that were found, in either direction; 1 without any."""
    if not len(true.rows):
        return 1.0
    known = set(zip(found.rows.tolist(), found.others.tolist(), strict=True))
    pairs = zip(true.rows.tolist(), true.others.tolist(), strict=True)
    hits = [(left, right) in known or (right, left) in known for left, right in pairs]
    return float(np.mean(hits))
