"""Average precision against loops over the ranking."""

import numpy as np
import pytest

from dino_jax.evaluation.ranking import (
    Query,
    average_precision,
    rank_database,
    ranks_of_positives,
    score_rankings,
)


def plain_ap(ranking, positives, junk) -> tuple[float, list[float]]:
    """One item after the other: the area of each trapezoid, and precision@1, 2, 10."""
    area, hits, seen, precisions = 0.0, 0, 0, {}
    for item in ranking:
        if item in junk:
            continue
        before = hits / seen if seen else 1.0
        seen += 1
        if item in positives:
            hits += 1
            area += (before + hits / seen) / 2 / len(positives)
            last = seen
        precisions[seen] = hits / seen
    return area, [precisions[min(k, last)] for k in (1, 2, 10)]


def test_mean_average_precision_is_that_of_a_loop():
    rng = np.random.default_rng(0)
    rankings = np.stack([rng.permutation(40) for _ in range(6)])
    queries = []
    for _ in range(6):
        chosen = rng.permutation(40)
        queries.append(Query(chosen[:5].tolist(), chosen[5:12].tolist()))
    expected = [plain_ap(r, q.positives, q.junk) for r, q in zip(rankings, queries, strict=True)]
    scores = score_rankings(rankings, queries, (1, 2, 10))
    assert scores.mean_ap == pytest.approx(np.mean([ap for ap, _ in expected]))
    assert list(scores.precision) == [1, 2, 10]
    means = np.mean([row for _, row in expected], axis=0)
    np.testing.assert_allclose(list(scores.precision.values()), means)


def test_junk_is_taken_out_of_the_ranking():
    ranking = np.array([7, 3, 9, 1, 4])
    np.testing.assert_array_equal(ranks_of_positives(ranking, Query([3, 4], [7, 1])), [0, 2])
    # Hits 1 and 2 of ranks 0 and 2: (1 + 1) / 2 / 2 + (1 / 2 + 2 / 3) / 2 / 2.
    assert average_precision([0, 2], 2) == pytest.approx(0.5 + 7 / 24)
    assert average_precision([], 2) == 0


def test_queries_without_positives_do_not_count():
    rankings = np.array([[0, 1, 2], [2, 1, 0]])
    scores = score_rankings(rankings, [Query([], [1]), Query([1])])
    assert (scores.queries, scores.skipped) == (1, 1)
    assert scores.mean_ap == pytest.approx((0 + 1 / 2) / 2)
    assert scores.precision[1] == 0 and scores.precision[10] == 0.5
    with pytest.raises(ValueError, match="none of the 2 queries"):
        score_rankings(rankings, [Query([]), Query([])])
    with pytest.raises(ValueError, match="2 rankings for 1 queries"):
        score_rankings(rankings, [Query([1])])


def test_the_database_is_ranked_by_dot_product():
    database = np.array([[1, 0], [0, 1], [1, 0], [-1, 0]], np.float32)
    ranking = rank_database(np.array([[2, 1]], np.float32), database)
    np.testing.assert_array_equal(ranking, [[0, 2, 1, 3]])
