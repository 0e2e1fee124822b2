"""k-means: seeds by k-means++, then Lloyd's iterations, the same bits for any split of the rows.

The sums of float16 rows of length 1 are exact in float64: such numbers are multiples of 2^-24 and
at most 1, so sums below 2^29 need no rounding, and their order means nothing.
"""

import math
from typing import NamedTuple

import numpy as np

from dino_jax.curation.nearest import (
    TILE,
    Centers,
    Compare,
    centers_of,
    nearest,
    numpy_compare,
    squared_distances,
)


class Draws(NamedTuple):
    """What k-means++ draws.

    Attributes:
      first: the first row.
      uniforms: [k - 1, trials] in [0, 1).
    """

    first: int
    uniforms: np.ndarray


class Clusters(NamedTuple):
    """The end of k-means.

    Attributes:
      centroids: [K, d] float64; one without rows stays where it was.
      assignment: [n] int32, the nearest centroid of each row.
    """

    centroids: np.ndarray
    assignment: np.ndarray


def trials_of(k: int) -> int:
    """Rows that k-means++ tries for each seed."""
    return 2 + int(math.log(k))


def draw(rng: np.random.RandomState, n: int, k: int) -> Draws:
    """The draws for k of n rows, in the order of the published code."""
    first = int(rng.randint(n))
    return Draws(first, rng.random_sample((max(0, k - 1), trials_of(k))))


def choose_seeds(rows: np.ndarray, k: int, draws: Draws) -> np.ndarray:
    """Greedy k-means++ (Arthur and Vassilvitskii 2007; several trials for each seed).

    Args:
      rows: [n, d] float32 or float64.
      k: number of seeds, at most n.
      draws: `first` below n.

    Returns:
      [k] int64 rows. A row is taken twice only where fewer than k of them differ.
    """
    squares = np.square(rows, dtype=np.float64).sum(axis=1)
    chosen = np.empty(k, np.int64)
    chosen[0] = draws.first
    closest = _distances(rows, squares, chosen[:1])[0]
    for place in range(1, k):
        running = np.cumsum(closest)
        wanted = draws.uniforms[place - 1] * closest.sum()
        tried = np.minimum(np.searchsorted(running, wanted), len(rows) - 1)
        distances = np.minimum(_distances(rows, squares, tried), closest)
        best = int(distances.sum(axis=1).argmin())
        chosen[place], closest = tried[best], distances[best]
    return chosen


def _distances(rows: np.ndarray, squares: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """[m, n] float64 squared distances of all rows to some of them, not negative."""
    products = (rows[chosen] @ rows.T).astype(np.float64)
    return np.maximum(squares - 2 * products + squares[chosen, None], 0)


def sums_of(rows: np.ndarray, assignment: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums and numbers of the rows of each cluster.

    Args:
      rows: [n, d]; of float16 rows of length 1 the sums are exact.
      assignment: [n] clusters.
      k: number of clusters.

    Returns:
      [k, d] float64 and [k] int64.
    """
    sums, counts = np.zeros((k, rows.shape[1])), np.zeros(k, np.int64)
    for start in range(0, len(rows), TILE):
        mine = assignment[start : start + TILE]
        order = np.argsort(mine, kind="stable")
        clusters, firsts, sizes = np.unique(mine[order], return_index=True, return_counts=True)
        wide = rows[start : start + TILE][order].astype(np.float64)
        sums[clusters] += np.add.reduceat(wide, firsts, axis=0)
        counts[clusters] += sizes
    return sums, counts


def means_of(sums: np.ndarray, counts: np.ndarray, before: np.ndarray) -> np.ndarray:
    """[k, d] float64 means; a cluster without rows keeps its centroid of `before`."""
    filled = counts > 0
    return np.where(filled[:, None], sums / np.maximum(counts, 1)[:, None], before)


def lloyd(
    rows: np.ndarray,
    centroids: np.ndarray,
    iterations: int,
    cosine: bool = False,
    compare: Compare = numpy_compare,
) -> Clusters:
    """Assigns first, then means and assignment `iterations` times.

    Ends earlier where an iteration changes nothing, as all later ones would.

    Args:
      rows: [n, d].
      centroids: [K, d] to begin with.
      iterations: at least 0.
      cosine: nearest by x.c, with centroids that are means and never normalised.
      compare: makes the products in float32.
    """
    centroids = centroids.astype(np.float64)
    assignment = nearest(rows, centers_of(centroids, cosine), compare)
    for _ in range(iterations):
        centroids = means_of(*sums_of(rows, assignment, len(centroids)), centroids)
        before = assignment
        assignment = nearest(rows, centers_of(centroids, cosine), compare)
        if np.array_equal(before, assignment):
            break
    return Clusters(centroids, assignment)


def inertia(rows: np.ndarray, clusters: Clusters) -> float:
    """Sum of the squared distances of all rows to their centroids."""
    centers = centers_of(clusters.centroids)
    return float(squared_distances(rows, centers, clusters.assignment).sum())


def sorted_members(assignment: np.ndarray, distances: np.ndarray, k: int) -> list[np.ndarray]:
    """Rows of each cluster, the nearest to its centroid first; ties by row.

    Args:
      assignment: [n] clusters.
      distances: [n] to the centroids.
      k: number of clusters, some of which may be empty.
    """
    order = np.lexsort((np.arange(len(assignment)), distances, assignment))
    ends = np.searchsorted(assignment[order], np.arange(1, k))
    return np.split(order, ends)


def kmeans(
    rows: np.ndarray,
    k: int,
    iterations: int,
    rng: np.random.RandomState,
    compare: Compare = numpy_compare,
) -> Clusters:
    """Seeds and iterations in one call; `k` is cut to the number of rows.

    Args:
      rows: [n, d], at least one.
      k: number of clusters.
      iterations: of Lloyd.
      rng: of the seeds.
      compare: makes the products in float32.
    """
    k = min(k, len(rows))
    wide = rows.astype(np.float32) if rows.dtype == np.float16 else rows
    seeds = choose_seeds(wide, k, draw(rng, len(rows), k))
    return lloyd(rows, rows[seeds], iterations, compare=compare)


def nearest_members(clusters: Clusters, rows: np.ndarray, count: int) -> np.ndarray:
    """Sorted rows: of every cluster the `count` nearest to its centroid, or all if it has fewer."""
    centers: Centers = centers_of(clusters.centroids)
    distances = squared_distances(rows, centers, clusters.assignment)
    members = sorted_members(clusters.assignment, distances, len(clusters.centroids))
    return np.sort(np.concatenate([each[:count] for each in members]))
