"""The nearest centers of rows, exactly, whatever computes the products.

Products are made in float32, by NumPy or on any accelerator. Where two centers are closer than
float32 can tell, their products are made again in float64, summed in a fixed order: so the answer
is that of float64, and depends neither on tiles, threads and devices nor on the library.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

TILE = 4096  # rows whose products with all centers are made at once
_HALF_ULP = 2.0**-24  # of float32, relative
_PAIRS = 1 << 16  # whose products are made again at once

# Of [n, d] float32 rows and centers: [n] int32 the largest score, and [n] and [n] float32 that
# score and the second, -inf where there is one center.
Compare = Callable[[np.ndarray, "Centers"], tuple[np.ndarray, np.ndarray, np.ndarray]]


class Centers(NamedTuple):
    """What rows are compared with; of all of them the largest score is the nearest.

    The score of a row x and a center c is x.c - |c|^2 / 2, so their squared distance is
    |x|^2 - 2 score; with the cosine, x.c alone.

    Attributes:
      vectors: [K, d] float64.
      halves: [K] float64, |c|^2 / 2, or zeros.
      single: `vectors` in float32.
      single_halves: `halves` in float32.
    """

    vectors: np.ndarray
    halves: np.ndarray
    single: np.ndarray
    single_halves: np.ndarray


def centers_of(vectors: np.ndarray, cosine: bool = False) -> Centers:
    """Prepares centers.

    Args:
      vectors: [K, d] of any type.
      cosine: compare by x.c; the centers are not normalised (ssl-data-curation's "cos").
    """
    wide = np.ascontiguousarray(vectors, np.float64)
    halves = np.zeros(len(wide)) if cosine else (wide * wide).sum(axis=1) / 2
    return Centers(wide, halves, wide.astype(np.float32), halves.astype(np.float32))


def numpy_compare(rows: np.ndarray, centers: Centers) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compares a tile on the CPU; see `Compare`."""
    return _two_largest(_single_scores(rows, centers))


def _single_scores(rows: np.ndarray, centers: Centers) -> np.ndarray:
    made = rows @ centers.single.T
    made -= centers.single_halves
    return made


def _two_largest(made: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    place = np.arange(len(made))
    found = made.argmax(axis=1)
    first = made[place, found].copy()
    made[place, found] = -np.inf
    return found.astype(np.int32), first, made.max(axis=1)


def nearest(rows: np.ndarray, centers: Centers, compare: Compare = numpy_compare) -> np.ndarray:
    """[n] int32, the nearest center of each row; of equally near ones the first.

    Args:
      rows: [n, d]; float64 rows are compared in float64 at once.
      centers: at least one.
      compare: makes the products in float32.
    """
    return nearest_and_gap(rows, centers, compare)[0]


def nearest_and_gap(
    rows: np.ndarray, centers: Centers, compare: Compare = numpy_compare
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The nearest center of each row, its score and that of the second, to float32's precision.

    Returns:
      [n] int32, exact; [n] and [n] float64, within half of `doubt` of the true scores; the second
      score is -inf where there is one center.
    """
    found = np.empty(len(rows), np.int32)
    first, second = np.empty(len(rows)), np.empty(len(rows))
    for start in range(0, len(rows), TILE):
        tile = slice(start, start + TILE)
        made = _nearest_of_tile(rows[tile], centers, compare)
        found[tile], first[tile], second[tile] = made
    return found, first, second


def _nearest_of_tile(
    rows: np.ndarray, centers: Centers, compare: Compare
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if rows.dtype == np.float64:
        return _two_largest(rows @ centers.vectors.T - centers.halves)
    single = rows.astype(np.float32)
    found, first, second = compare(single, centers)
    unsure = doubt(centers, _longest(single))
    near = np.flatnonzero(second >= first - unsure)
    if len(near):
        made = _single_scores(single[near], centers)
        left, right = np.nonzero(made >= (first[near] - unsure)[:, None])
        exact = exact_scores(rows[near], centers, left, right)
        order = np.lexsort((right, -exact, left))
        found = np.array(found)
        found[near] = right[order][np.searchsorted(left, np.arange(len(near)))]
    return found, first, second


def nearest_few(rows: np.ndarray, centers: Centers, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` nearest centers of each row, the nearest first; ties by number.

    Args:
      rows: [n, d].
      centers: at least `count`.
      count: at least 1.

    Returns:
      [n, count] int32 and their scores, [n, count] float64, of float64 products.
    """
    found = np.empty((len(rows), count), np.int32)
    values = np.empty((len(rows), count))
    for start in range(0, len(rows), TILE):
        tile = slice(start, start + TILE)
        single = rows[tile].astype(np.float32)
        made, unsure = _single_scores(single, centers), doubt(centers, _longest(single))
        kth = np.partition(made, -count, axis=1)[:, -count]
        left, right = np.nonzero(made >= (kth - unsure)[:, None])
        exact = exact_scores(rows[tile], centers, left, right)
        order = np.lexsort((right, -exact, left))
        firsts = np.searchsorted(left, np.arange(len(made)))
        chosen = order[firsts[:, None] + np.arange(count)]
        found[tile], values[tile] = right[chosen], exact[chosen]
    return found, values


def _longest(rows: np.ndarray) -> float:
    return float(np.sqrt(np.square(rows).sum(axis=1).max(initial=0)))


def exact_scores(
    rows: np.ndarray, centers: Centers, left: np.ndarray, right: np.ndarray
) -> np.ndarray:
    """[m] float64 scores of pairs: row `left[m]` and center `right[m]`."""
    values = np.empty(len(left))
    for start in range(0, len(left), _PAIRS):
        some = slice(start, start + _PAIRS)
        products = rows[left[some]].astype(np.float64) * centers.vectors[right[some]]
        values[some] = products.sum(axis=1) - centers.halves[right[some]]
    return values


def squared_distances(rows: np.ndarray, centers: Centers, assignment: np.ndarray) -> np.ndarray:
    """[n] float64 squared distance of each row to its center (with the cosine, as |c| were 1)."""
    scores = exact_scores(rows, centers, np.arange(len(rows)), assignment)
    squares = np.concatenate(
        [
            np.square(rows[start : start + TILE], dtype=np.float64).sum(axis=1)
            for start in range(0, len(rows), TILE)
        ]
        or [np.zeros(0)]
    )
    return squares - 2 * scores


def doubt(centers: Centers, longest: float) -> float:
    """Twice the most by which a float32 score differs from the true one (Higham, section 3.1).

    Args:
      centers: as they are compared.
      longest: length of the longest row.
    """
    width = centers.vectors.shape[1]
    longest_center = float(np.sqrt(np.square(centers.vectors).sum(axis=1).max(initial=0)))
    return 2 * (width + 3) * _HALF_ULP * (longest * longest_center + centers.halves.max(initial=0))
