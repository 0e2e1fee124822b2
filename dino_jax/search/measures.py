"""How well photographs of one thing find each other: recall@K, R-precision, mAP@R, mAP, MRR.

Definitions as in the papers and in A Metric Learning Reality Check (arXiv:2003.08505, Section 3.2):
for a query with R positives, P(i) the precision among the first i, and h(i) = 1 for a hit at i,

  recall@K     1 if a positive is among the first K (Stanford Online Products, In-Shop)
  R-precision  P(R)
  mAP@R        sum over i <= R of P(i) h(i), over R
  mAP          the same sum over the whole ranking
  MRR          1 / rank of the first positive

Queries without a positive ("lone") have none of these; they are counted and left out.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

QUERIES_AT_ONCE = 256


class Scores(NamedTuple):
    """Measures of each query.

    Attributes:
      values: [Q] float64 by name of the measure, NaN for lone queries.
      classes: [Q] int64 labels.
    """

    values: dict[str, np.ndarray]
    classes: np.ndarray

    @property
    def lone(self) -> int:
        """Number of queries without a positive."""
        return int(np.isnan(self.values["mrr"]).sum())

    def means(self, by_class: bool = False) -> dict[str, float]:
        """Means over the other queries, or over the means of their classes.

        Raises:
          ValueError: if all queries are lone.
        """
        counted = ~np.isnan(self.values["mrr"])
        if not counted.any():
            raise ValueError("none of the queries has another photo with the same label")
        _, place = np.unique(self.classes[counted], return_inverse=True)
        sizes = np.bincount(place)
        weights = 1 / sizes[place] if by_class else np.ones(len(place))
        return {
            name: float(np.average(values[counted], weights=weights))
            for name, values in self.values.items()
        }


def measure(
    queries: np.ndarray,
    query_classes: np.ndarray,
    gallery: np.ndarray,
    gallery_classes: np.ndarray,
    own: np.ndarray,
    first: Sequence[int],
) -> Scores:
    """Ranks the gallery for every query by the inner product in float32; ties by row.

    Args:
      queries: [Q, d] of length 1.
      query_classes: [Q] labels.
      gallery: [N, d] of length 1.
      gallery_classes: [N] labels.
      own: [Q] place of each query in the gallery, where it does not count; -1 if it is not there.
      first: values of K.
    """
    queries, gallery = queries.astype(np.float32), gallery.astype(np.float32)
    order = np.argsort(gallery_classes, kind="stable")
    sorted_classes = gallery_classes[order]
    begins = np.searchsorted(sorted_classes, query_classes, side="left")
    ends = np.searchsorted(sorted_classes, query_classes, side="right")
    rows = []
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        tile = slice(start, start + QUERIES_AT_ONCE)
        similar = queries[tile] @ gallery.T
        for line, itself, begin, end in zip(
            similar, own[tile], begins[tile], ends[tile], strict=True
        ):
            positives = order[begin:end]
            positives = positives[positives != itself]
            if itself >= 0:
                line[itself] = -np.inf
            rows.append(_of_query(ranks_of(line, positives), first))
    names = [*(f"recall@{k}" for k in first), "r_precision", "map@r", "map", "mrr"]
    table = np.array(rows, np.float64).reshape(-1, len(names))
    return Scores(dict(zip(names, table.T, strict=True)), query_classes)


def ranks_of(similarities: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """Ascending ranks of positives, 0 for the nearest.

    Args:
      similarities: [N]; of equal ones the first is nearer.
      positives: [R] rows.
    """
    wanted = similarities[positives]
    before = [
        np.count_nonzero(similarities > value) + np.count_nonzero(similarities[:row] == value)
        for row, value in zip(positives, wanted, strict=True)
    ]
    return np.sort(np.array(before, np.int64))


def average_precision_at(ranks: np.ndarray, positives: int, k: int) -> float:
    """mAP@k of one query as ILIAS counts it (arXiv:2502.11748): over min(positives, k)."""
    precision = np.arange(1, len(ranks) + 1) / (ranks + 1)
    return float(precision[ranks < k].sum() / min(positives, k))


def _of_query(ranks: np.ndarray, first: Sequence[int]) -> list[float]:
    count = len(ranks)
    if not count:
        return [np.nan] * (len(first) + 4)
    precision = np.arange(1, count + 1) / (ranks + 1)
    near = ranks < count
    return [
        *(float(ranks[0] < k) for k in first),
        near.mean(),
        precision[near].sum() / count,
        precision.mean(),
        1 / (ranks[0] + 1),
    ]


def bootstrap(
    one: Scores, other: Scores, resamples: int, seed: int = 0
) -> Mapping[str, tuple[float, float, float]]:
    """Differences of the means, other minus one, with intervals of 95 %.

    Whole classes are drawn with replacement, the same ones for both: photographs of one product
    are no independent draws.

    Args:
      one: of the same queries as `other`, in the same order.
      other: the second one.
      resamples: number of draws.
      seed: of the draws.

    Returns:
      (difference, lower end, upper end) by measure.
    """
    draws, found = class_draws(one, resamples, seed), {}
    for name, values in one.values.items():
        gained = other.values[name] - values
        low, high = np.percentile(draws.means(gained), [2.5, 97.5])
        found[name] = (float(gained[draws.counted].mean()), float(low), float(high))
    return found


class Draws(NamedTuple):
    """Classes drawn with replacement.

    Attributes:
      counted: [Q] bool, queries that are not lone.
      place: [q] class of each of these, from 0.
      weights: [resamples, classes] how often each class was drawn.
    """

    counted: np.ndarray
    place: np.ndarray
    weights: np.ndarray

    def means(self, values: np.ndarray) -> np.ndarray:
        """[resamples] means over the queries of the drawn classes of [Q] values."""
        sums = np.bincount(self.place, values[self.counted])
        return self.weights @ sums / (self.weights @ np.bincount(self.place))


def class_draws(scores: Scores, resamples: int, seed: int = 0) -> Draws:
    """Draws classes of the queries that are not lone."""
    counted = ~np.isnan(scores.values["mrr"])
    _, place = np.unique(scores.classes[counted], return_inverse=True)
    classes, rng = int(place.max(initial=-1)) + 1, np.random.default_rng(seed)
    draws = [
        np.bincount(rng.integers(classes, size=classes), minlength=classes)
        for _ in range(resamples)
    ]
    return Draws(counted, place, np.array(draws))
