"""What a run gained over its start: the hits of each question, against loops in NumPy."""

import numpy as np

from dino_jax.evaluation.features import LabeledFeatures
from dino_jax.evaluation.online.gain import (
    find_nearest_rows,
    hits_of_labels,
    hits_of_pairs,
    hits_of_views,
)


def cosines(x, y):
    x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
    return x @ y.T


def rows(count, labels=None, seed=0):
    features = np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32)
    given = np.zeros(count, np.int32) if labels is None else np.asarray(labels, np.int32)
    return LabeledFeatures(features, given)


def test_a_pair_is_found_if_the_nearest_other_image_has_the_label():
    labels = [0, 0, 1, 1, 2, -1, 3, 3, 3, -1]  # 2 is alone, two have none
    given = rows(10, labels)
    similar = cosines(given.features, given.features)
    np.fill_diagonal(similar, -2)
    expected = [
        labels[similar[i].argmax()] == labels[i] for i in range(10) if labels[i] in (0, 1, 3)
    ]
    hits, groups = hits_of_pairs(given)
    np.testing.assert_array_equal(hits, expected)
    np.testing.assert_array_equal(groups, [0, 0, 1, 1, 3, 3, 3])


def test_a_class_is_found_by_the_votes_of_the_nearest_others():
    labels = np.arange(30) % 3
    given = rows(30, labels)
    similar = cosines(given.features, given.features)
    np.fill_diagonal(similar, -2)
    expected = []
    for i in range(30):
        nearest = np.argsort(-similar[i])[:5]
        votes = [np.exp(similar[i][nearest][labels[nearest] == c] / 0.07).sum() for c in range(3)]
        expected.append(np.argmax(votes) == labels[i])
    hits, groups = hits_of_labels(given, 5, 0.07)
    np.testing.assert_array_equal(hits, expected)
    np.testing.assert_array_equal(groups, np.arange(30))


def test_two_views_have_to_find_each_other_both_ways():
    first, second = rows(20, seed=1), rows(20, seed=2)
    second.features[:12] = first.features[:12] + 0.3 * second.features[:12]
    similar = cosines(first.features, second.features)
    own = np.arange(20)
    expected = np.concatenate([similar.argmax(1) == own, similar.argmax(0) == own])
    pairs = np.concatenate([first.features, second.features], axis=1)
    hits, groups = hits_of_views(pairs)
    assert 0 < expected.sum() < 40
    np.testing.assert_array_equal(hits, expected)
    np.testing.assert_array_equal(groups, [*own, *own])


def test_equal_rows_are_all_taken_for_the_first_so_a_collapse_finds_nothing():
    same = np.ones((50, 4), np.float32)
    assert (find_nearest_rows(same, same, itself=True) == 0).all()
