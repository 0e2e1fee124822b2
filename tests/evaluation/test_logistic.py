"""L-BFGS on the devices against scikit-learn."""

import warnings

import numpy as np
import pytest
from sklearn import linear_model

from dino_jax.evaluation import logistic
from dino_jax.evaluation.features import LabeledFeatures
from dino_jax.evaluation.logistic import LogisticRegression
from dino_jax.evaluation.options.logreg import STRENGTHS
from dino_jax.evaluation.protocols.logreg import choose_strength, hold_out
from dino_jax.evaluation.search import local_mesh

CLASSES, DIM = 5, 16


def random_data(seed, images):
    """Overlapping classes, far from the origin, as cls tokens are."""
    rng = np.random.default_rng(0)
    centers, offset = rng.normal(size=(CLASSES, DIM)), 5 * rng.normal(size=DIM)
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, images)
    features = offset + 0.5 * (0.7 * centers[labels] + rng.normal(size=(images, DIM)))
    return features.astype(np.float32), labels


def reference(features, labels, strength):
    model = linear_model.LogisticRegression(C=strength, tol=1e-10, max_iter=20_000)
    with warnings.catch_warnings():  # a last line search that finds nothing lower
        warnings.simplefilter("ignore")
        return model.fit(features.astype(np.float64), labels)


def probabilities(classifier, features):
    logits = features.astype(np.float64) @ classifier.weights + classifier.bias
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("tile", [7, 8192])
def test_coefficients_and_probabilities_are_those_of_scikit_learn(monkeypatch, tile):
    monkeypatch.setattr(logistic, "TILE", tile)
    features, labels = random_data(1, 403)
    test, test_labels = random_data(2, 150)
    problem = LogisticRegression(features, labels, CLASSES, local_mesh())
    for strength in (1e-3, 0.1, 10.0):
        ours = problem.fit(strength, max_iterations=1000)
        theirs = reference(features, labels, strength)
        scale = np.abs(theirs.coef_).max()
        np.testing.assert_allclose(ours.weights.T, theirs.coef_, rtol=0, atol=2e-3 * scale)
        np.testing.assert_allclose(
            probabilities(ours, test), theirs.predict_proba(test), rtol=0, atol=2e-3
        )
        accuracy = ours.accuracy(test, test_labels)
        assert accuracy.top1 == pytest.approx(100 * theirs.score(test, test_labels))
        assert accuracy.top5 == 100.0


def test_the_result_does_not_depend_on_where_the_search_starts():
    features, labels = random_data(3, 300)
    warm = LogisticRegression(features, labels, CLASSES, local_mesh())
    for strength in (1e-4, 1e-2, 1.0):
        after_others = warm.fit(strength, max_iterations=1000)
    cold = LogisticRegression(features, labels, CLASSES, local_mesh()).fit(1.0, 1000)
    np.testing.assert_allclose(after_others.weights, cold.weights, rtol=0, atol=2e-3)


def test_features_that_are_all_equal_teach_the_frequencies_of_the_classes():
    labels = np.array([0, 0, 0, 1])
    problem = LogisticRegression(np.ones((4, 3), np.float32), labels, 2, local_mesh())
    found = probabilities(problem.fit(1.0, 1000), np.ones((1, 3)))
    np.testing.assert_allclose(found, [[0.75, 0.25]], rtol=0, atol=1e-4)


def test_strengths_are_those_of_dinov2():
    assert len(STRENGTHS) == 45
    np.testing.assert_allclose((STRENGTHS[0], STRENGTHS[4], STRENGTHS[-1]), (1e-6, 1e-5, 1e5))


def test_a_tenth_of_the_images_chooses_what_the_others_have_taught():
    features, labels = random_data(4, 200)
    kept, held_out = hold_out(200)
    assert len(held_out) == 20
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, held_out])), np.arange(200))
    train = LabeledFeatures(features, labels)
    found = choose_strength(train, [1e-5, 1.0], CLASSES, 1000, local_mesh())
    for strength, top1 in found.items():
        theirs = reference(features[kept], labels[kept], strength)
        assert top1 == pytest.approx(100 * theirs.score(features[held_out], labels[held_out]))
    assert found[1e-5] < found[1.0]


def test_fewer_than_ten_images_are_an_error():
    with pytest.raises(ValueError, match="9 are too few, expected at least 10"):
        hold_out(9)
