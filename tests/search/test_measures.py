"""The measures are those that pytorch-metric-learning gave (tests/golden/search)."""

import json
from pathlib import Path

import numpy as np
import pytest

from dino_jax.search.measures import Scores, average_precision_at, bootstrap, measure, ranks_of

GOLDEN = Path(__file__).parents[1] / "golden/search"
NAMES = {
    "map": "mean_average_precision",
    "map@r": "mean_average_precision_at_r",
    "mrr": "mean_reciprocal_rank",
    "recall@1": "precision_at_1",
    "r_precision": "r_precision",
}


@pytest.fixture(scope="module")
def arrays():
    with np.load(GOLDEN / "retrieval_metrics.npz") as found:
        return dict(found)


@pytest.fixture(scope="module")
def recorded():
    return json.loads((GOLDEN / "retrieval_values.json").read_text())


def scored(arrays, kind: str) -> Scores:
    query, labels = arrays["query"], arrays["query_labels"]
    gallery, theirs = arrays["reference"], arrays["reference_labels"]
    own = np.full(len(query), -1)
    if kind != "query_vs_reference":
        own = np.arange(len(query))
    if kind == "self":
        gallery, theirs = query, labels
    if kind == "reference_includes_query":
        gallery, theirs = np.concatenate([query, gallery]), np.concatenate([labels, theirs])
    return measure(query, labels, gallery, theirs, own, (1, 2, 4, 8, 10, 100))


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("kind", ["self", "query_vs_reference", "reference_includes_query"])
def test_measures_are_the_recorded_ones(arrays, recorded, kind, by_class):
    means = scored(arrays, kind).means(by_class)
    wanted = recorded["metrics"][f"{kind},k=None,avg_of_avgs={by_class}"]
    for name, theirs in NAMES.items():
        # They take the mean of the reciprocal ranks in float32.
        tolerance = 2**-23 if name == "mrr" else 1e-9
        assert means[name] == pytest.approx(wanted[theirs], rel=tolerance)


def test_recall_leaves_lone_queries_out_and_counts_them(arrays, recorded):
    scores = scored(arrays, "self")
    means, plain = scores.means(), recorded["plain_numpy"]
    for k in (1, 2, 4, 8, 10, 100):
        assert means[f"recall@{k}"] == pytest.approx(plain[f"recall@{k}_without_lone"], rel=1e-9)
        counted = len(scores.classes) - scores.lone
        share = means[f"recall@{k}"] * counted / len(scores.classes)
        assert share == pytest.approx(plain[f"recall@{k}"], rel=1e-9)
    assert scores.lone == 2


def test_map_at_k_divides_by_the_smaller_of_k_and_the_positives(arrays, recorded):
    similar = arrays["query"] @ arrays["reference"].T
    for k in (5, 10, 100):
        values = []
        for line, label in zip(similar, arrays["query_labels"], strict=True):
            positives = np.flatnonzero(arrays["reference_labels"] == label)
            if len(positives):
                values.append(average_precision_at(ranks_of(line, positives), len(positives), k))
        wanted = recorded["plain_numpy"][f"reference_mAP@{k}_min_npos_k"]
        assert np.mean(values) == pytest.approx(wanted, rel=1e-9)


def test_of_equal_similarities_the_first_row_is_nearer():
    similarities = np.array([0.5, 0.5, 0.9, 0.5], np.float32)
    assert ranks_of(similarities, np.array([1, 3])).tolist() == [2, 3]
    assert ranks_of(similarities, np.array([0, 2])).tolist() == [0, 1]


def test_only_lone_queries_are_an_error():
    rows = np.eye(3, dtype=np.float32)
    scores = measure(rows, np.arange(3), rows, np.arange(3), np.arange(3), (1,))
    with pytest.raises(ValueError, match="none of the queries has another photo"):
        scores.means()


def test_the_bootstrap_draws_classes_and_covers_the_difference():
    classes = np.repeat(np.arange(200), 3)
    rng = np.random.default_rng(0)
    gain = np.repeat(rng.normal(0.1, 0.2, 200), 3)
    one = Scores({"mrr": np.zeros(600)}, classes)
    other = Scores({"mrr": gain}, classes)
    difference, low, high = bootstrap(one, other, 4000)["mrr"]
    assert difference == pytest.approx(gain.mean())
    # Photographs of a class are alike: the interval is that of 200 draws, not of 600.
    width = 2 * 1.96 * gain.std() / np.sqrt(200)
    assert high - low == pytest.approx(width, rel=0.1)
    assert bootstrap(one, one, 100)["mrr"] == (0, 0, 0)
