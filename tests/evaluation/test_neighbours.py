"""Nearest neighbours and their agreement against plain NumPy."""

import numpy as np
import pytest

from dino_jax.evaluation import neighbours
from dino_jax.evaluation.neighbours import nearest_neighbours, shared_neighbours


def draw(seed, images=70, dim=6):
    return np.random.default_rng(seed).normal(size=(images, dim)).astype(np.float32)


def plain_neighbours(features, k):
    unit = features.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    return np.argsort(-similarity, axis=1)[:, :k]


def agreement(ours, theirs, k):
    return shared_neighbours(nearest_neighbours(ours, k), nearest_neighbours(theirs, k))


@pytest.mark.parametrize("tile", [16, 1024])
def test_neighbours_are_those_of_a_full_sort_whatever_the_tile(monkeypatch, tile):
    monkeypatch.setattr(neighbours, "TILE", tile)
    features = draw(0)
    np.testing.assert_array_equal(nearest_neighbours(features, 5), plain_neighbours(features, 5))


def test_agreement_is_the_mean_share_of_common_neighbours():
    ours, theirs = draw(0), draw(0, dim=9)
    theirs[:, :6] += 2 * ours
    wanted = np.mean(
        [
            len(set(a) & set(b)) / 7
            for a, b in zip(plain_neighbours(ours, 7), plain_neighbours(theirs, 7), strict=True)
        ]
    )
    assert 0.2 < wanted < 0.9
    np.testing.assert_allclose(agreement(ours, theirs, 7), wanted, rtol=1e-6)


def test_agreement_ignores_rotation_and_scale_and_is_chance_for_strangers():
    features = draw(1, images=400)
    rotation = np.linalg.qr(draw(2, 6, 6))[0]
    scale = np.random.default_rng(3).uniform(0.5, 2, size=(400, 1))
    assert agreement(features, features @ rotation * scale, 10) > 0.999
    assert agreement(features, draw(4, images=400), 10) == pytest.approx(10 / 399, abs=0.01)


@pytest.mark.parametrize("k", [0, 70])
def test_a_k_out_of_range_is_an_error(k):
    with pytest.raises(ValueError, match=rf"number of other images \(69\), got {k}"):
        nearest_neighbours(draw(0), k)


def test_features_of_different_numbers_of_images_are_an_error():
    with pytest.raises(ValueError, match="shorter"):
        agreement(draw(0), draw(0)[1:], 5)
