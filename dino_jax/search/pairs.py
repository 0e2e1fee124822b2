"""All pairs of rows above a cosine, and the nearest other row of each, in tiles."""

from typing import NamedTuple

import numpy as np

from dino_jax.commands.progress import Progress
from dino_jax.search.codes import lengths_of

TILE = 1024  # rows that are compared with all others at once
DOUBT = 1e-4  # more than float32 loses of a cosine; such pairs are computed again in float64
DIGITS = 9  # of a cosine, so that a photograph has exactly 1 with itself
MOST_PAIRS = 5_000_000


class Survey(NamedTuple):
    """Which rows are alike.

    Attributes:
      nearest: [n] float32, the largest cosine of each row with another one, -1 if there is none.
      nearest_at: [n] int64, that row.
      pairs: [m, 2] int64 rows i < j, ordered, whose cosine is at least the threshold.
      cosines: [m] float64, of the stored vectors, to `DIGITS` digits.
    """

    nearest: np.ndarray
    nearest_at: np.ndarray
    pairs: np.ndarray
    cosines: np.ndarray


def survey(vectors: np.ndarray, threshold: float) -> Survey:
    """Compares all rows with each other.

    Args:
      vectors: [n, d] float16 of length 1.
      threshold: smallest cosine of a pair.

    Raises:
      ValueError: if there are more than `MOST_PAIRS`.
    """
    count, lengths = len(vectors), lengths_of(vectors)
    rows = (vectors / lengths[:, None]).astype(np.float32)
    nearest, nearest_at = np.full(count, -1, np.float32), np.zeros(count, np.int64)
    found, cosines, total = [], [], 0
    progress = Progress("compare", count, "photos")
    for start in range(0, count, TILE):
        similar = rows[start : start + TILE] @ rows.T
        mine = np.arange(start, start + len(similar))
        similar[np.arange(len(mine)), mine] = -1
        nearest_at[mine] = similar.argmax(axis=1)
        nearest[mine] = np.minimum(similar[np.arange(len(mine)), nearest_at[mine]], 1)
        left, right = np.nonzero(similar >= threshold - DOUBT)
        left = left + start
        left, right = left[left < right], right[left < right]
        products = vectors[left].astype(np.float64) * vectors[right].astype(np.float64)
        exact = products.sum(axis=1) / (lengths[left] * lengths[right])
        exact = np.round(exact, DIGITS)
        above = exact >= threshold
        found.append(np.stack([left[above], right[above]], axis=1))
        cosines.append(exact[above])
        total += int(above.sum())
        if total > MOST_PAIRS:
            raise ValueError(
                f"--threshold={threshold} gives more than {MOST_PAIRS:,} pairs among the first "
                f"{start + TILE:,} photos; take a larger one (without it, the histogram is shown)"
            )
        progress.show(min(start + TILE, count))
    progress.close()
    pairs = np.concatenate(found) if found else np.zeros((0, 2), np.int64)
    return Survey(nearest, nearest_at, pairs, np.concatenate(cosines) if cosines else np.zeros(0))


class Star(NamedTuple):
    """A group: what is kept, and rows that are each like it.

    Attributes:
      kept: row.
      others: rows with their cosines to it, the most similar first.
    """

    kept: int
    others: list[tuple[int, float]]


def stars(pairs: np.ndarray, cosines: np.ndarray, order: list[int]) -> list[Star]:
    """Groups in which every member is above the threshold to the kept one: nothing chains.

    Args:
      pairs: [m, 2] rows.
      cosines: [m].
      order: all rows of the pairs, the one to keep first.
    """
    alike: dict[int, list[tuple[int, float]]] = {}
    for (left, right), cosine in zip(pairs.tolist(), cosines.tolist(), strict=True):
        alike.setdefault(left, []).append((right, cosine))
        alike.setdefault(right, []).append((left, cosine))
    taken, found = set(), []
    for row in order:
        if row in taken:
            continue
        taken.add(row)
        others = [(other, cosine) for other, cosine in alike.get(row, ()) if other not in taken]
        taken.update(other for other, _ in others)
        if others:
            found.append(Star(row, sorted(others, key=lambda pair: (-pair[1], pair[0]))))
    return found


def histogram(values: np.ndarray) -> list[tuple[float, float, int]]:
    """(from, to, number) of cosines: wide steps below 0.9, narrow ones near 1."""
    edges = [-1, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.92, 0.94, 0.96, 0.97, 0.98, 0.99, 0.995, 1]
    counts, _ = np.histogram(values, edges)
    return list(zip(edges[:-1], edges[1:], counts.tolist(), strict=True))
