"""Quality of features without labels, against plain second computations."""

import math

import numpy as np
import pytest
import scipy.linalg

from dino_jax.evaluation.label_free import decay_exponent, lidar, retrieval


def draw(images=40, views=6, size=5, spread=0.3):
    rng = np.random.default_rng(0)
    own = rng.normal(size=(images, 1, size)) * np.arange(1, size + 1)
    return own + spread * rng.normal(size=(images, views, size))


def test_retrieval_counts_the_views_that_find_their_own_image():
    views = draw(spread=2.0)
    unit = views / np.linalg.norm(views, axis=-1, keepdims=True)
    hits = [
        max(range(40), key=lambda other: unit[image, view] @ unit[other, 0]) == image
        for image in range(40)
        for view in range(1, 6)
    ]
    assert 0.2 < retrieval(views) < 0.9
    assert retrieval(views) == pytest.approx(np.mean(hits))
    assert retrieval(draw(spread=0.0)) == 1.0
    assert retrieval(np.ones((40, 6, 5))) == 1 / 40  # all alike: the first one is found


def test_lidar_is_the_rank_of_the_generalized_eigenvalues():
    views = draw()
    means = views.mean(1)
    within = sum(
        (row - mean)[:, None] * (row - mean)
        for mean, rows in zip(means, views, strict=True)
        for row in rows
    ) / (40 * 6) + 1e-4 * np.eye(5)
    between = np.cov(means.T, bias=True)
    eigenvalues = scipy.linalg.eigh(between, within, eigvals_only=True)
    shares = eigenvalues / eigenvalues.sum() + 1e-7
    assert lidar(views) == pytest.approx(math.exp(-np.sum(shares * np.log(shares))), rel=1e-6)


def test_lidar_does_not_see_what_varies_within_an_image():
    views = draw()
    loud = np.concatenate([views, 1e3 * np.random.default_rng(1).normal(size=views.shape)], -1)
    assert lidar(loud) < lidar(views) + 1
    assert math.isnan(lidar(np.ones((40, 6, 5))))
    assert math.isnan(lidar(np.full((40, 6, 5), np.inf)))


def test_the_exponent_of_a_power_law_is_found():
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(32, 32)))[0]
    rows = rng.normal(size=(500, 32))
    basis = np.linalg.qr(rows - rows.mean(0))[0]  # centered columns, one for each eigenvalue
    scales = np.arange(1, 33) ** -0.75  # eigenvalues are their squares
    assert decay_exponent(basis * scales @ rotation + 5.0) == pytest.approx(1.5, abs=0.02)
    assert math.isnan(decay_exponent(np.ones((10, 4))))
    assert math.isnan(decay_exponent(np.full((10, 4), np.nan)))
