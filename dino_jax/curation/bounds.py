"""Lloyd's iterations without most of the products, and with the same result.

Bounds on the distances to the own and to the nearest other centroid follow from how far centroids
have moved; a row whose bounds do not cross stays where it is (Hamerly 2010, "Making k-means even
faster"). Where they cross only because a few centroids moved far, the row is compared with those;
else with all, exactly.
"""

from typing import NamedTuple

import numpy as np

from dino_jax.curation.nearest import (
    TILE,
    Centers,
    Compare,
    centers_of,
    doubt,
    nearest_and_gap,
    numpy_compare,
)

FAST_SHARE = 8  # one of so many centroids is fast
SLACK = 1e-6  # of a distance, far more than float64 loses for rows of length 1


class Motion(NamedTuple):
    """How centroids have moved in one iteration.

    Attributes:
      moved: [K] distances.
      order: [K] centroids, the one that moved the most last.
      is_fast: [K] bool, the few that moved the most.
      fast: those.
      slow_most: the most that another one has moved.
      reach: [K] half the distance from each centroid to the next one: nearer rows are its own.
    """

    moved: np.ndarray
    order: np.ndarray
    is_fast: np.ndarray
    fast: Centers
    slow_most: float
    reach: np.ndarray


def motion_of(before: np.ndarray, now: np.ndarray) -> Motion:
    """The motion from [K, d] centroids to others."""
    moved = np.sqrt(np.square(now - before).sum(axis=1))
    order = np.argsort(moved, kind="stable")
    few = max(1, len(moved) // FAST_SHARE)
    is_fast = np.zeros(len(moved), bool)
    is_fast[order[-few:]] = True
    slow_most = float(moved[~is_fast].max(initial=0))
    return Motion(moved, order, is_fast, centers_of(now[is_fast]), slow_most, _reach_of(now))


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
        self, rows: np.ndarray, centers: Centers, motion: Motion, compare: Compare = numpy_compare
    ) -> np.ndarray:
        """Follows centroids that have moved.

        Args:
          rows: those of `__init__`.
          centers: the centroids now.
          motion: of `motion_of`, how they came there.
          compare: makes the products in float32.

        Returns:
          [m] rows that now have another centroid than before; `assignment` is up to date.
        """
        before, lower = self.assignment, self._lower
        moved, order = motion.moved, motion.order
        second = order[-2] if len(order) > 1 else order[-1]
        self._upper += moved[before]
        self._lower = lower - np.where(before == order[-1], moved[second], moved[order[-1]])
        bound = np.maximum(self._lower, motion.reach[before]) - SLACK
        open_rows = np.flatnonzero(self._upper >= bound)
        if len(open_rows):
            self._upper[open_rows] = self._to_own(rows, open_rows, centers)
            open_rows = open_rows[self._upper[open_rows] >= bound[open_rows]]
        self.assignment = before.copy()
        held = self._hold_fast(rows, open_rows, lower - motion.slow_most, motion, compare)
        self._compare(rows, open_rows[~held], centers, compare)
        return np.flatnonzero(self.assignment != before)

    def _hold_fast(
        self,
        rows: np.ndarray,
        some: np.ndarray,
        slow_lower: np.ndarray,
        motion: Motion,
        compare: Compare,
    ) -> np.ndarray:
        """[m] whether rows stay: slow centroids are too far, fast ones are compared.

        Args:
          rows: those of `__init__`.
          some: [m] rows.
          slow_lower: [n] bounds from below on the distances to the slow centroids but the own one.
          motion: of the centroids.
          compare: makes the products in float32.
        """
        held = self._upper[some] < slow_lower[some] - SLACK
        held &= ~motion.is_fast[self.assignment[some]]
        asked = np.flatnonzero(held)
        unsure = doubt(motion.fast, 1.001)
        for start in range(0, len(asked), TILE):
            place = asked[start : start + TILE]
            tile = some[place]
            _, first, _ = nearest_and_gap(rows[tile], motion.fast, compare)
            squared = np.maximum(self._squares[tile] - 2 * first - 2 * unsure, 0)
            lower = np.minimum(np.sqrt(squared), slow_lower[tile])
            self._lower[tile] = lower
            held[place] = self._upper[tile] < lower - SLACK
        return held

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


def _reach_of(vectors: np.ndarray) -> np.ndarray:
    squares = np.square(vectors).sum(axis=1)
    nearest = np.full(len(vectors), np.inf)
    for start in range(0, len(vectors), TILE):
        stop = min(start + TILE, len(vectors))
        squared = squares[start:stop, None] - 2 * vectors[start:stop] @ vectors.T + squares
        squared[np.arange(stop - start), np.arange(start, stop)] = np.inf
        nearest[start:stop] = squared.min(axis=1)
    return np.sqrt(np.maximum(nearest, 0)) / 2
