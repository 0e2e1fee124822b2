"""Groups of like rows: edges to nearest neighbours, components, stars, SemDeDup's rule.

DINOv2 (arXiv:2304.07193, appendix A.1 to A.3) takes the components of the graph of edges from each
image to its 64 nearest above 0.6. Components chain: two of their images may be less alike than the
threshold. The members of a star are each like the one that is kept.
"""

from typing import NamedTuple

import numpy as np

from dino_jax.curation.nearest import TILE, centers_of, doubt, exact_scores
from dino_jax.search.codes import lengths_of

DIGITS = 9  # of a cosine, so that a picture has exactly 1 with itself

_PRODUCTS = 1 << 24  # of a tile of rows with all others


class Edges(NamedTuple):
    """Directed edges from rows to like ones.

    Attributes:
      rows: [m] int64.
      others: [m] int64.
      cosines: [m] float64.
    """

    rows: np.ndarray
    others: np.ndarray
    cosines: np.ndarray


NO_EDGES = Edges(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))


def edges_within(numbers: np.ndarray, vectors: np.ndarray, count: int, threshold: float) -> Edges:
    """Edges from each row of a cell to its nearest others in it above a cosine.

    Args:
      numbers: [n] int64, what the rows are called.
      vectors: [n, d] of length 1.
      count: edges of a row at most.
      threshold: cosines must be above.
    """
    return edges_between(numbers, vectors, numbers, vectors, count, threshold)


def edges_between(
    numbers: np.ndarray,
    vectors: np.ndarray,
    other_numbers: np.ndarray,
    other_vectors: np.ndarray,
    count: int,
    threshold: float,
) -> Edges:
    """Edges from rows to the nearest of other rows; a number that is on both sides is no edge.

    Args:
      numbers: [n] int64.
      vectors: [n, d], float16 of length 1, or float64.
      other_numbers: [m] int64.
      other_vectors: [m, d] likewise.
      count: edges of a row at most; of equally near ones the smaller numbers.
      threshold: cosines must be above.
    """
    if not len(numbers) or not len(other_numbers):
        return NO_EDGES
    lengths, other_lengths = lengths_of(vectors), lengths_of(other_vectors)
    others = centers_of(other_vectors / other_lengths[:, None], cosine=True)
    single = others.vectors.astype(np.float32)
    unsure = doubt(others, 1.001)
    found = []
    height = max(64, min(TILE, _PRODUCTS // len(other_numbers)))
    for start in range(0, len(numbers), height):
        tile = slice(start, start + height)
        mine = vectors[tile].astype(np.float64) / lengths[tile, None]
        similar = mine.astype(np.float32) @ single.T
        _, same, itself = np.intersect1d(numbers[tile], other_numbers, return_indices=True)
        similar[same, itself] = -np.inf
        least = np.full(len(mine), threshold)
        many = np.flatnonzero((similar >= threshold - unsure).sum(axis=1) > count)
        if len(many):
            kth = np.partition(similar[many], -count, axis=1)[:, -count]
            least[many] = np.maximum(threshold, kth)
        left, right = np.nonzero(similar >= (least - unsure)[:, None])
        exact = np.round(exact_scores(mine, others, left, right), DIGITS)
        above = exact > threshold
        rows = numbers[tile][left[above]]
        found.append(Edges(rows, other_numbers[right[above]], exact[above]))
    return nearest_edges(found, count)


def nearest_edges(parts: list[Edges], count: int) -> Edges:
    """Edges found in several cells as one: each once, of each row the `count` nearest."""
    if not parts:
        return NO_EDGES
    rows, others, cosines = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((others, -cosines, rows))
    rows, others, cosines = rows[order], others[order], cosines[order]
    again = np.zeros(len(rows), bool)  # equal edges have equal cosines, so they are neighbours
    again[1:] = (rows[1:] == rows[:-1]) & (others[1:] == others[:-1])
    rows, others, cosines = rows[~again], others[~again], cosines[~again]
    rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
    kept = rank < count
    return Edges(rows[kept], others[kept], cosines[kept])


def components(edges: Edges, n: int) -> np.ndarray:
    """[n] int64, the smallest row of the component of each row 0 to n - 1."""
    from scipy.sparse import coo_array, csgraph

    ones = np.ones(len(edges.rows), np.int8)
    graph = coo_array((ones, (edges.rows, edges.others)), shape=(n, n))
    count, labels = csgraph.connected_components(graph, directed=True, connection="weak")
    smallest = np.full(count, n, np.int64)
    np.minimum.at(smallest, labels, np.arange(n))
    return smallest[labels]


def star_groups(edges: Edges, n: int) -> np.ndarray:
    """[n] int64, the row that is kept for each row; each is above the threshold to it.

    Rows are kept in their order, unless one that is kept already is like them.
    """
    rows = np.concatenate([edges.rows, edges.others])
    others = np.concatenate([edges.others, edges.rows])
    order = np.lexsort((others, rows))
    rows, others = rows[order], others[order]
    kept = np.full(n, -1, np.int64)
    involved, firsts, sizes = np.unique(rows, return_index=True, return_counts=True)
    ends = firsts + sizes
    for row, first, end in zip(involved.tolist(), firsts.tolist(), ends.tolist(), strict=True):
        if kept[row] < 0:
            kept[row] = row
            like = others[first:end]
            kept[like[kept[like] < 0]] = row
    return np.where(kept < 0, np.arange(n), kept)


def semdedup_order(vectors: np.ndarray, centroid: np.ndarray) -> np.ndarray:
    """[n] rows of a cluster, the furthest from its centroid ("hard") first; ties by row."""
    products = (vectors.astype(np.float64) * centroid.astype(np.float64)).sum(axis=1)
    return np.lexsort((np.arange(len(products)), products))


def semdedup(vectors: np.ndarray, epsilon: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """SemDeDup (arXiv:2303.09540, algorithm 1): which rows of a cluster, in their order, go.

    A row goes if its cosine with any earlier one is above 1 - epsilon; earlier ones that have gone
    count, so chains go further than a greedy pass.

    Args:
      vectors: [n, d] of length 1, or zeros, in the order of `semdedup_order`.
      epsilon: a smaller one removes less.

    Returns:
      [n] bool, which go; [n] int64 the most similar earlier row (-1 for the first) and [n] float64
      its cosine (-1).

    Raises:
      ValueError: if rows are not of length 1, which the rule needs.
    """
    wide = vectors.astype(np.float64)
    lengths = np.sqrt(np.square(wide).sum(axis=1))
    if (np.abs(lengths - 1) > 2e-3)[lengths > 0].any():  # more than float16 loses
        raise ValueError(
            f"SemDeDup compares vectors of length 1; got lengths {lengths.min():.4g} to "
            f"{lengths.max():.4g}: divide the rows by their lengths"
        )
    partner, cosines = np.full(len(wide), -1, np.int64), np.full(len(wide), -1.0)
    for start in range(0, len(wide), TILE):
        stop = min(start + TILE, len(wide))
        similar = wide[start:stop] @ wide[:stop].T
        similar[np.triu_indices(stop - start, start, stop)] = -np.inf
        partner[start:stop] = similar.argmax(axis=1)
        cosines[start:stop] = similar.max(axis=1)
    if len(wide):
        partner[0], cosines[0] = -1, -1.0
    cosines = np.round(cosines, DIGITS)
    return cosines > 1 - epsilon, partner, cosines
