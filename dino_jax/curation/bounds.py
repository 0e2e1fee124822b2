"""Lloyd's iterations without most of the products, and with the same result.

Bounds on the distances to the own and to the nearest other centroid follow from how far centroids
have moved; a row whose bounds do not cross stays where it is (Hamerly 2010, "Making k-means even
faster"). Where they cross, the row is compared again, exactly.
"""

import numpy as np

from dino_jax.curation.nearest import (
    TILE,
    Centers,
    Compare,
    doubt,
    nearest_and_gap,
    numpy_compare,
)

SLACK = 1e-6  # of a distance, far more than float64 loses for rows of length 1


class Bounds:
    """What is known of the rows of one shard.

    Attributes:
      assignment: [n] int32, the nearest centroid of each row.
    """

    def __init__(self, rows: np.ndarray, centers: Centers, compare: Compare = numpy_compare):
        """Compares all rows.

        Args:
          rows: [n, d] float16 of length 1.
          centers: centroids.
          compare: makes the products in float32.
        """
        self._squares = np.concatenate(
            [
                np.square(rows[start : start + TILE], dtype=np.float64).sum(axis=1)
                for start in range(0, len(rows), TILE)
            ]
            or [np.zeros(0)]
        )
        self._upper, self._lower = np.zeros(len(rows)), np.zeros(len(rows))
        self.assignment = np.zeros(len(rows), np.int32)
        self._compare(rows, np.arange(len(rows)), centers, compare)

    def move(
        self,
        rows: np.ndarray,
        centers: Centers,
        moved: np.ndarray,
        reach: np.ndarray,
        compare: Compare = numpy_compare,
    ) -> np.ndarray:
        """Follows centroids that have moved.

        Args:
          rows: those of `__init__`.
          centers: the centroids now.
          moved: [K] how far each has gone.
          reach: of `reach_of`, for the centroids now.
          compare: makes the products in float32.

        Returns:
          [m] rows that now have another centroid than before; `assignment` is up to date.
        """
        before = self.assignment
        own = moved[before]
        order = np.argsort(moved)
        most, second = order[-1], order[-2] if len(order) > 1 else order[-1]
        self._upper += own
        self._lower -= np.where(before == most, moved[second], moved[most])
        bound = np.maximum(self._lower, reach[before]) - SLACK
        open_rows = np.flatnonzero(self._upper >= bound)
        if len(open_rows):
            self._upper[open_rows] = self._to_own(rows, open_rows, centers)
            open_rows = open_rows[self._upper[open_rows] >= bound[open_rows]]
        self.assignment = before.copy()
        self._compare(rows, open_rows, centers, compare)
        return np.flatnonzero(self.assignment != before)

    def _to_own(self, rows: np.ndarray, some: np.ndarray, centers: Centers) -> np.ndarray:
        """[m] bounds from above on the distances of some rows to their centroids."""
        found = np.empty(len(some))
        for start in range(0, len(some), TILE):
            tile = some[start : start + TILE]
            own = self.assignment[tile]
            made = np.einsum("nd,nd->n", rows[tile].astype(np.float32), centers.single[own])
            score = made - centers.halves[own]
            squared = self._squares[tile] - 2 * score + 2 * doubt(centers, 1.001)
            found[start : start + TILE] = np.sqrt(np.maximum(squared, 0))
        return found

    def _compare(
        self, rows: np.ndarray, some: np.ndarray, centers: Centers, compare: Compare
    ) -> None:
        """Compares some rows with all centroids."""
        for start in range(0, len(some), TILE):
            tile = some[start : start + TILE]
            found, first, second = nearest_and_gap(rows[tile], centers, compare)
            unsure = doubt(centers, 1.001)
            squares = self._squares[tile]
            self.assignment[tile] = found
            self._upper[tile] = np.sqrt(np.maximum(squares - 2 * first + 2 * unsure, 0))
            lower = np.maximum(squares - 2 * np.maximum(second, -1e9) - 2 * unsure, 0)
            self._lower[tile] = np.sqrt(lower)


def reach_of(centers: Centers) -> np.ndarray:
    """[K] half the distance from each centroid to the next one: nearer rows are its own."""
    vectors = centers.vectors
    squares = np.square(vectors).sum(axis=1)
    nearest = np.full(len(vectors), np.inf)
    for start in range(0, len(vectors), TILE):
        stop = min(start + TILE, len(vectors))
        squared = squares[start:stop, None] - 2 * vectors[start:stop] @ vectors.T + squares
        squared[np.arange(stop - start), np.arange(start, stop)] = np.inf
        nearest[start:stop] = squared.min(axis=1)
    return np.sqrt(np.maximum(nearest, 0)) / 2
