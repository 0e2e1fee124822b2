"""Losses of class vectors against pytorch-metric-learning's (tests/golden/search)."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dino_jax.objectives.classes import (
    arcface,
    best_centers,
    cosface,
    normalized_softmax,
    proxy_anchor,
)
from dino_jax.objectives.pairs import cosines

MARGIN = math.radians(28.6)
# The loss, and which recorded arrays are the rows and the classes.
LOSSES = {
    "arcface": (lambda s, y: arcface(s, y, MARGIN, 64), "embeddings", "arcface_W"),
    "arcface_m57.3_s30": (
        lambda s, y: arcface(s, y, math.radians(57.3), 30),
        "embeddings",
        "arcface_W",
    ),
    "arcface_opposite": (
        lambda s, y: arcface(s, y, MARGIN, 64),
        "opposite_embeddings",
        "arcface_W",
    ),
    "cosface": (lambda s, y: cosface(s, y, 0.35, 64), "embeddings", "arcface_W"),
    "normsoftmax": (lambda s, y: normalized_softmax(s, y, 0.05), "embeddings", "arcface_W"),
    "subcenter3_arcface": (
        lambda s, y: arcface(best_centers(s, 3), y, MARGIN, 64),
        "embeddings",
        "subcenter_W",
    ),
}


@pytest.fixture(scope="module")
def arrays(golden):
    return golden("search/metric_losses")


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_both_gradients_equal_the_recorded_ones(arrays, name):
    loss, rows, classes = LOSSES[name]
    compute = jax.value_and_grad(lambda x, w: loss(cosines(x, w.T), arrays["labels"]), (0, 1))
    value, grads = jax.jit(compute)(arrays[rows], arrays[classes])
    np.testing.assert_allclose(value, arrays[f"{name}.loss"], rtol=1e-5)
    close(grads[0], arrays[f"{name}.grad"])
    close(grads[1], arrays[f"{name}.grad_W"])


def test_proxy_anchor_equals_the_recorded_one(arrays):
    compute = jax.value_and_grad(
        lambda x, w: proxy_anchor(cosines(x, w), arrays["labels"], 0.1, 32), (0, 1)
    )
    value, grads = jax.jit(compute)(arrays["embeddings"], arrays["proxyanchor_proxies"])
    np.testing.assert_allclose(value, arrays["proxyanchor.loss"], rtol=1e-5)
    close(grads[0], arrays["proxyanchor.grad"])
    close(grads[1], arrays["proxyanchor.grad_proxies"])


def test_a_row_that_is_its_class_vector_has_a_finite_gradient(arrays):
    classes = arrays["arcface_W"]
    rows = classes.T.copy()
    grad = jax.grad(lambda x: arcface(cosines(x, classes.T), jnp.arange(11), MARGIN, 64))(rows)
    assert np.isfinite(grad).all()
