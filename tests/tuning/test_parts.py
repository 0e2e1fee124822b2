"""SKUs, splits, batches, near-duplicates and the guard, each by itself."""

import numpy as np
import pytest

from dino_jax.evaluation.paired import compare
from dino_jax.tuning.course import Evaluation, Result
from dino_jax.tuning.guard import Queries, make_queries, to_unit
from dino_jax.tuning.near import find_near
from dino_jax.tuning.plan import categories_of
from dino_jax.tuning.sampler import make_sampler
from dino_jax.tuning.skus import (
    Skus,
    merge_skus,
    shuffle_skus,
    skus_of_pairs,
    skus_of_values,
)
from dino_jax.tuning.split import split_skus


def test_equal_values_are_one_sku_and_empty_ones_none():
    skus = skus_of_values(["b", None, "a", "b", "", 3])
    assert skus.names == ["3", "a", "b"]
    np.testing.assert_array_equal(skus.of, [2, -1, 1, 2, -1, 0])
    assert [x.tolist() for x in skus.photos()] == [[5], [2], [0, 3]]


def test_pairs_that_share_a_photo_are_one_sku():
    skus = skus_of_pairs(np.array([[4, 1], [5, 2], [1, 0]]), list("abcdef"))
    np.testing.assert_array_equal(skus.of, [0, 0, 1, -1, 0, 1])
    assert skus.names == ["a", "c"]


def test_merged_skus_are_one():
    skus = merge_skus(Skus(np.array([0, 1, 2, 3, -1]), list("abcd")), np.array([[3, 1]]))
    np.testing.assert_array_equal(skus.of, [0, 1, 2, 1, -1])
    assert skus.names == ["a", "b", "c"]


def test_shuffled_skus_have_the_same_sizes():
    skus = Skus(np.repeat(np.arange(20), 3), [str(i) for i in range(20)])
    found = shuffle_skus(skus, seed=0)
    np.testing.assert_array_equal(np.bincount(found.of), np.full(20, 3))
    together = sum(len(set(found.of[skus.of == one])) == 1 for one in range(20))
    assert together <= 2


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_whole_skus_are_held_out(share):
    of = np.random.default_rng(0).integers(0, 150, size=600)
    skus = Skus(of, [str(i) for i in range(150)])
    split = split_skus(skus, share, 0, least_photos=2)
    assert not set(split.trained) & set(split.held_out)
    several = (np.bincount(of, minlength=150) >= 2).sum()
    assert len(split.held_out) == round(share * several)
    assert len(split.trained) + len(split.held_out) == several
    queries = make_queries(skus, split.held_out, everything=False)
    assert not set(queries.skus) & set(split.trained)


def test_a_batch_has_p_skus_with_m_photos_each():
    photos = [np.arange(start, start + size) for start, size in ((0, 5), (5, 2), (7, 9), (16, 4))]
    sampler = make_sampler(photos, 2, 4, seed=0)
    rows, labels = sampler.draw(3)
    assert rows.shape == labels.shape == (8,)
    for sku in np.unique(labels):
        own = rows[labels == sku]
        assert len(own) == 4 and set(own) <= set(photos[sku])
        assert len(set(own)) == min(4, len(photos[sku]))


def test_an_epoch_has_every_sku_once():
    photos = [np.arange(3 * i, 3 * i + 3) for i in range(12)]
    sampler = make_sampler(photos, 4, 2, seed=1)
    assert sampler.steps_per_epoch == 3
    for epoch in range(3):
        seen = [set(sampler.draw(3 * epoch + step)[1]) for step in range(3)]
        assert sorted(x for one in seen for x in one) == list(range(12))


def test_a_batch_is_a_function_of_seed_and_step():
    photos = [np.arange(5 * i, 5 * i + 5) for i in range(12)]
    one, other = (make_sampler(photos, 4, 3, seed=2) for _ in range(2))
    one.draw(0)
    for step in (7, 3):
        for a, b in zip(one.draw(step), other.draw(step), strict=True):
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal(one.draw(7)[0], make_sampler(photos, 4, 3, seed=3).draw(7)[0])


def test_near_photos_of_different_skus_are_found():
    rng = np.random.default_rng(0)
    vectors = to_unit(rng.normal(size=(40, 24)))
    vectors[30] = to_unit(vectors[[2]] + 0.01 * rng.normal(size=(1, 24)))[0]
    vectors[3] = vectors[2]  # the same SKU
    skus = Skus(np.repeat(np.arange(20), 2), [str(i) for i in range(20)])
    near = find_near(vectors, skus, 0.98)
    assert near.photos.tolist() == [[2, 30], [3, 30]]
    wanted = vectors[2].astype(np.float64) @ vectors[30]
    np.testing.assert_allclose(near.cosines, wanted, atol=1e-3)


def test_recall_counts_the_nearest_other_photo():
    vectors = to_unit(np.array([[1, 0], [0.9, 0.1], [0, 1], [0.05, 1], [0.9, 0.11], [1, 0.02]]))
    skus = np.array([0, 0, 1, 1, 2, 2])
    queries = Queries(np.arange(6), skus, np.array([1, 1, 1, 1, 0, 0], bool))
    np.testing.assert_array_equal(queries.hits(vectors), [False, False, True, True])


def test_the_interval_is_that_of_whole_skus():
    """Photos of a SKU go together, so 200 hits of 10 SKUs say as little as 10 numbers."""
    skus = np.repeat(np.arange(10), 20)
    frozen = np.zeros(200, bool)
    tuned = np.repeat(np.arange(10) < 6, 20)
    gain = compare(frozen, tuned, skus, evaluations=1)
    assert gain.mean == 0.6
    draws = np.random.default_rng(7).binomial(10, 0.6, size=200_000) / 10
    low, high = np.percentile(draws, [2.5, 97.5])
    np.testing.assert_allclose((gain.low, gain.high), (low, high), atol=0.1)


def test_chance_is_that_of_a_photo_drawn_from_the_others():
    skus = np.array([0, 0, 0, 1, 1, -1, 2])
    queries = Queries(np.arange(7), skus, np.array([1, 1, 1, 1, 1, 0, 0], bool))
    np.testing.assert_allclose(queries.chance(), [2 / 6, 2 / 6, 2 / 6, 1 / 6, 1 / 6])


def test_more_looks_make_the_interval_wider():
    rng = np.random.default_rng(0)
    skus = np.repeat(np.arange(50), 3)
    frozen, tuned = rng.random(150) < 0.5, rng.random(150) < 0.6
    one, many = (compare(frozen, tuned, skus, evaluations=count) for count in (1, 20))
    assert many.low < one.low and many.high > one.high and many.mean == one.mean


def test_a_gain_that_is_no_more_than_chance_is_not_handed_out():
    """One hit of 360 was bad luck, and eight are not more than the five of chance."""
    skus = np.repeat(np.arange(60), 6)
    frozen, tuned = np.zeros(360, bool), np.zeros(360, bool)
    frozen[0], tuned[6::45] = True, True
    gain = compare(frozen, tuned, skus, evaluations=3)
    over = compare(np.full(360, 5 / 359), tuned, skus, evaluations=3)
    best = Evaluation(1, float(tuned.mean()), gain, over, 0.0)
    assert gain.is_proven and not over.is_proven
    assert not Result(float(frozen.mean()), [best], best, None).is_better


def test_chance_is_rarely_taken_for_a_gain():
    """Of 100 tunings without effect and 5 looks each, the best look is proven in at most 5."""
    rng, skus = np.random.default_rng(3), np.repeat(np.arange(40), 4)
    wrong = 0
    for _ in range(100):
        frozen = rng.random(160) < 0.5
        gains = [compare(frozen, rng.random(160) < 0.5, skus, 5, resamples=1000) for _ in range(5)]
        wrong += max(gains, key=lambda gain: gain.mean).is_proven
    assert wrong <= 5


def test_a_batch_has_few_categories_unless_they_are_too_small():
    photos = [np.array([2 * sku, 2 * sku + 1]) for sku in range(40)]
    categories = np.repeat([0, 1, 2, 3, 9], [12, 12, 12, 2, 2])
    sampler = make_sampler(photos, 8, 2, 0, categories, 2)
    seen = set()
    for step in range(60):
        rows, labels = sampler.draw(step)
        chosen = labels[::2]
        assert len(np.unique(chosen)) == 8 and len(rows) == 16
        kinds = np.unique(categories[chosen])
        # Two of the three large ones, or a large and a small one; two small ones need a third.
        assert len(kinds) <= 2 or {3, 9} & set(kinds.tolist())
        seen |= set(kinds.tolist())
    assert seen == {0, 1, 2, 3, 9}
    again = make_sampler(photos, 8, 2, 0, categories, 2).draw(7)
    np.testing.assert_array_equal(again[0], sampler.draw(7)[0])


def test_a_sku_has_the_category_of_its_first_photograph():
    skus = [np.array([3, 0]), np.array([1])]
    np.testing.assert_array_equal(categories_of(np.array([5, 6, 7, 8]), skus), [8, 6])
    assert categories_of(None, skus) is None
