"""Principal components of embeddings, beside scikit-learn's."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from dino_jax.embedding.projection import fit_pca


@pytest.mark.parametrize("shape", [(50, 12), (8, 12)], ids=["more rows", "fewer rows"])
def test_pca_is_scikit_learns_up_to_the_sign_of_a_component(shape):
    vectors = np.random.default_rng(0).normal(size=shape) * np.linspace(0.1, 3, shape[1]) + 5
    dim = 6
    ours = fit_pca(vectors.astype(np.float32), dim)
    theirs = PCA(dim, svd_solver="full").fit(vectors.astype(np.float32).astype(np.float64))
    np.testing.assert_allclose(ours.mean, theirs.mean_, rtol=1e-6)
    signs = np.sign(np.sum(ours.matrix * theirs.components_.T, axis=0))
    np.testing.assert_allclose(ours.matrix, theirs.components_.T * signs, atol=1e-6)


def test_the_largest_entry_of_every_component_is_positive():
    matrix = fit_pca(np.random.default_rng(1).normal(size=(40, 9)), 9).matrix
    assert (matrix[np.abs(matrix).argmax(axis=0), np.arange(9)] > 0).all()


def test_a_sample_has_as_many_components_as_rows():
    with pytest.raises(ValueError, match="PCA of 4 sample images with 9 numbers each gives 1 to 4"):
        fit_pca(np.ones((4, 9)), 5)
