"""A text and a photograph asked together: both scores, each standardised over the rows.

Cosines of an image and a text are all low, those of two images all high, so their raw sum would
follow the second alone. (s - mean) / deviation of each has no scale, and is still linear in the
row: the fused score is that of one query vector, which the exact search takes.
"""

import numpy as np

from dino_jax.search.index import Index
from dino_jax.search.mixture import Query, unit

TILE = 1 << 14  # rows that are read at once


def fuse(index: Index, photo: Query, text: Query, text_weight: float) -> Query:
    """The query whose scores are (1 - t) times one standardised score, plus t times the other.

    Mean and deviation are those of all photographs of the index, whatever the filters.

    Args:
      index: an open index.
      photo: what the photograph asks.
      text: what the text asks.
      text_weight: t in [0, 1].

    Raises:
      ValueError: if one of them has the same score for all photographs.
    """
    weights = (1 - text_weight, text_weight)
    asked = np.stack([unit(one.vector) * one.scale for one in (photo, text)])
    means, deviations = moments(index, asked)
    if not (deviations > 1e-9).all():
        raise ValueError("all photos have the same score: a text and a photo cannot be weighed")
    factors = np.array(weights) / deviations
    vector = factors @ asked
    return Query(vector, float(np.linalg.norm(vector)), -float(factors @ means))


def moments(index: Index, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[m] means and deviations of the inner products of all rows with [m, d] vectors."""
    rows = np.flatnonzero(index.live)
    total, squares = np.zeros(len(asked)), np.zeros(len(asked))
    for start in range(0, len(rows), TILE):
        scores = index.vectors(rows[start : start + TILE]).astype(np.float64) @ asked.T
        total += scores.sum(axis=0)
        squares += np.square(scores).sum(axis=0)
    means = total / max(1, len(rows))
    return means, np.sqrt(np.maximum(squares / max(1, len(rows)) - means**2, 0))
