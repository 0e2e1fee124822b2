"""GeM pooling and whitening against their definitions."""

import numpy as np
import pytest

from dino_jax.evaluation.whitening import fit_whitening, gem

X = np.random.default_rng(0).normal(size=(50, 4)) @ np.diag([3, 1, 0.5, 0.1]) + 2


def test_gem_is_the_power_mean_of_what_is_positive():
    patches = np.array([[[1.0, -3.0], [2.0, 0.5]]], np.float32)
    expected = [(1**4 / 2 + 2**4 / 2) ** 0.25, ((1e-6) ** 4 / 2 + 0.5**4 / 2) ** 0.25]
    np.testing.assert_allclose(gem(patches)[0], expected, rtol=1e-6)
    np.testing.assert_allclose(gem(patches, 1.0, 1e-6)[0], [1.5, 0.25], rtol=1e-5)


def test_whitened_features_have_unit_covariance():
    white = fit_whitening(X)(X)
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(white.T @ white / len(X), np.eye(4), atol=1e-4)


def test_the_official_whitening_forgets_the_mean_in_the_covariance():
    values, vectors = np.linalg.eigh(X.T @ X / len(X))
    official = (
        (X - X.mean(axis=0)) @ vectors @ np.diag(np.maximum(values, values.max() * 1e-5) ** -0.5)
    )
    ours = fit_whitening(X, reference=True)(X)
    # Components come in another order and sign; what counts are inner products.
    np.testing.assert_allclose(ours @ ours.T, official @ official.T, atol=1e-3)
    assert not np.allclose(fit_whitening(X)(X) @ fit_whitening(X)(X).T, ours @ ours.T, atol=0.1)


def test_directions_without_variance_are_not_blown_up():
    flat = np.concatenate([X, X[:, :1]], axis=1)  # a fifth column that is the first
    white = fit_whitening(flat)
    assert np.isfinite(white.projection).all()
    assert (
        np.abs(white.projection).max()
        <= (1e-5 * np.linalg.eigvalsh(np.cov(flat.T))[-1]) ** -0.5 * 1.02
    )
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        fit_whitening(X[:1])
    with pytest.raises(ValueError, match="all 3 images are equal"):
        fit_whitening(np.ones((3, 2)))
