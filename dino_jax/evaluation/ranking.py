"""Quality of a ranking: average precision by trapezoids, precision at k."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

FIRST = (1, 5, 10)  # of precision@k (revisited Oxford and Paris, arXiv:1803.11285, Section 5)


class Query(NamedTuple):
    """Expected results of a query, as indices into the database.

    Attributes:
      positives: images that count as right.
      junk: images that count neither as right nor as wrong: they are removed from the ranking.
    """

    positives: Collection[int]
    junk: Collection[int] = ()


class Scores(NamedTuple):
    """Means over the queries that have positives.

    Attributes:
      mean_ap: mean average precision, in [0, 1].
      precision: for every k, in [0, 1].
      queries: number of queries that count.
      skipped: number of queries without positives.
    """

    mean_ap: float
    precision: dict[int, float]
    queries: int
    skipped: int


def average_precision(ranks: Sequence[int] | np.ndarray, positives: int) -> float:
    """Area below the precision-recall curve, by trapezoids.

    Precision just before and just after every hit are averaged, as in the evaluations of Holidays,
    Copydays and (revisited) Oxford and Paris.

    Args:
      ranks: ranks of the positives that were found, ascending; 0 is the first.
      positives: number of positives, > 0.
    """
    found, ranks = np.arange(len(ranks)), np.asarray(ranks, np.float64)
    before = np.divide(found, ranks, out=np.ones(len(ranks)), where=ranks > 0)
    after = (found + 1) / (ranks + 1)
    return float(np.sum(before + after) / (2 * positives))


def ranks_of_positives(ranking: np.ndarray, query: Query) -> np.ndarray:
    """Ranks of the positives in a ranking without its junk; 0 is the first.

    Args:
      ranking: [N] indices into the database, the best first.
      query: expected results.

    Returns:
      [P] ascending.
    """
    kept = ranking[~np.isin(ranking, np.asarray(list(query.junk), np.int64))]
    return np.flatnonzero(np.isin(kept, np.asarray(list(query.positives), np.int64)))


def score_rankings(
    rankings: np.ndarray, queries: Sequence[Query], first: Sequence[int] = FIRST
) -> Scores:
    """Scores of a whole evaluation.

    precision@k is that among the first k, or among all up to the last positive if these are fewer,
    as in the official code of the revisited data sets.

    Args:
      rankings: [Q, N] indices into the database, the best first.
      queries: Q queries.
      first: values of k.

    Raises:
      ValueError: if their numbers differ or no query has positives.
    """
    if len(rankings) != len(queries):
        raise ValueError(f"{len(rankings)} rankings for {len(queries)} queries")
    values, precisions = [], []
    for ranking, query in zip(rankings, queries, strict=True):
        if not query.positives:
            continue
        ranks = ranks_of_positives(ranking, query)
        values.append(average_precision(ranks, len(query.positives)))
        last = int(ranks[-1]) + 1 if len(ranks) else max(first)
        among = [min(last, k) for k in first]
        precisions.append([np.sum(ranks < k) / k for k in among])
    if not values:
        raise ValueError(f"none of the {len(queries)} queries has positives in the database")
    precision = dict(zip(first, np.mean(precisions, axis=0).tolist(), strict=True))
    skipped = len(queries) - len(values)
    return Scores(float(np.mean(values)), precision, len(values), skipped)


def rank_database(queries: np.ndarray, database: np.ndarray) -> np.ndarray:
    """Database images by descending dot product; of equal ones, the first comes first.

    Args:
      queries: [Q, D] float32.
      database: [N, D] float32.

    Returns:
      [Q, N] int64 indices.
    """
    return np.argsort(-(queries @ database.T), axis=1, kind="stable")
