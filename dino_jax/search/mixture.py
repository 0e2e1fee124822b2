"""Several models in one index: their unit vectors side by side, weighed when something is asked.

A row of two models is [d, c] / sqrt(2) with d and c of length 1, so its inner product with a query
[w q, (1 - w) r] is (w q.d + (1 - w) r.c) / sqrt(2): the order, and up to a factor the score, of the
cosine of [sqrt(w) d, sqrt(1 - w) c] and [sqrt(w) q, sqrt(1 - w) r]. Nothing is stored twice, and
the exact search proves its answers for every weight.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dino_jax.search.hits import Answer

MOST_MODELS = 2
USUAL_WEIGHT = 0.5  # of the first of two models


class Query(NamedTuple):
    """What is looked for, as `find_hits` takes it.

    Attributes:
      vector: [d], d of all models.
      scale, offset: cosines of the search times `scale`, plus `offset`, are the scores.
    """

    vector: np.ndarray
    scale: float = 1.0
    offset: float = 0.0

    def rescored(self, answer: Answer) -> Answer:
        """An answer to this query with its scores in place of cosines."""
        if (self.scale, self.offset) == (1.0, 0.0):
            return answer
        hits = [hit._replace(score=hit.score * self.scale + self.offset) for hit in answer.hits]
        return answer._replace(hits=hits)


def unit(vectors: np.ndarray) -> np.ndarray:
    """[..., d] float64 of length 1; zeros stay."""
    exact = np.asarray(vectors, np.float64)
    return exact / np.maximum(np.linalg.norm(exact, axis=-1, keepdims=True), 1e-12)


def join(parts: Sequence[np.ndarray]) -> np.ndarray:
    """[n, d_i] vectors of each model to [n, sum of d_i] rows of length 1; one model's stay."""
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([unit(part) for part in parts], axis=-1) / np.sqrt(len(parts))


def split(rows: np.ndarray, dims: Sequence[int]) -> list[np.ndarray]:
    """[..., sum of d_i] rows to the vectors of each model; those of several have length 1."""
    if len(dims) == 1:
        return [rows]
    return [unit(part) for part in np.split(rows, np.cumsum(dims)[:-1], axis=-1)]


def weigh(parts: Sequence[np.ndarray], weight: float = USUAL_WEIGHT) -> Query:
    """The query that a photograph is.

    Args:
      parts: [d_i] of each model, of any scale.
      weight: w in [0, 1] of the first of two models; the other one has the rest.
    """
    if len(parts) == 1:
        return Query(parts[0])
    return _joined(parts, (weight, 1 - weight))


def weigh_alone(part: np.ndarray, place: int, dims: Sequence[int]) -> Query:
    """The query of one model of several, such as a text.

    Args:
      part: [d_place] of any scale.
      place: of the model.
      dims: numbers per row of each model.
    """
    if len(dims) == 1:
        return Query(part)
    parts = [part if i == place else np.zeros(dim) for i, dim in enumerate(dims)]
    return _joined(parts, tuple(float(i == place) for i in range(len(dims))))


def at_weight(rows: np.ndarray, dims: Sequence[int], weight: float) -> np.ndarray:
    """[n, d] rows of two models as [sqrt(w) d, sqrt(1 - w) c], float32; one model's stay."""
    if len(dims) == 1:
        return rows
    first, second = split(rows, dims)
    parts = (np.sqrt(weight) * first, np.sqrt(1 - weight) * second)
    return np.concatenate(parts, axis=-1).astype(np.float32)


def _joined(parts: Sequence[np.ndarray], weights: Sequence[float]) -> Query:
    vector = np.concatenate([w * unit(x) for w, x in zip(weights, parts, strict=True)])
    return Query(vector, float(np.sqrt(len(parts)) * np.linalg.norm(weights)))
