"""The adapter of ILIAS as its own code trained it (tests/golden/search), on one device and more."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dino_jax.devices.sharding import make_mesh
from dino_jax.objectives.labelled import build_loss
from dino_jax.tuning.linear import LinearCandidate, Recipe, compute_loss, init_params

LAYER, CLASSES = "adaptation_layer.layer", "classifier.weight"
ILIAS = {"margin": 0, "scale": 16, "centers": 1}


@pytest.fixture(scope="module")
def arrays(golden):
    return golden("search/linear_adapter")


def params_at(arrays, when: str):
    return {
        "weight": jnp.asarray(arrays[f"{when}.{LAYER}.weight"]),
        "bias": jnp.asarray(arrays[f"{when}.{LAYER}.bias"]),
        "classes": {"vectors": jnp.asarray(arrays[f"{when}.{CLASSES}"])},
    }


def candidate(arrays, devices: int) -> LinearCandidate:
    mesh = make_mesh(1, jax.devices()[:devices])
    objective = build_loss("arcface", ILIAS)
    return LinearCandidate(arrays["features"], params_at(arrays, "init"), objective, Recipe(), mesh)


def test_the_first_gradient_is_the_recorded_one(arrays):
    rows, labels = (arrays[name][arrays["batches"][0]] for name in ("features", "labels"))
    objective = build_loss("arcface", ILIAS)
    grads, _ = jax.grad(compute_loss, has_aux=True)(
        params_at(arrays, "init"), objective, jnp.asarray(rows), jnp.asarray(labels), jnp.int32(0)
    )
    wanted = params_at(arrays, "grad_step0")
    for name in ("weight", "bias", "classes"):
        for one, other in zip(*map(jax.tree.leaves, (grads[name], wanted[name])), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("devices", [1, 4])
def test_forty_steps_are_the_recorded_ones(arrays, devices):
    learner, losses = candidate(arrays, devices), []
    for step, photos in enumerate(arrays["batches"]):
        losses.append(learner.step(step, photos, arrays["labels"][photos])["loss"])
    np.testing.assert_allclose(losses, arrays["losses"], rtol=1e-4)
    adapter = learner.snapshot()
    np.testing.assert_allclose(adapter.weight, arrays[f"final.{LAYER}.weight"], atol=1e-4)
    np.testing.assert_allclose(adapter.bias, arrays[f"final.{LAYER}.bias"], atol=1e-4)
    found = learner.vectors(np.arange(len(arrays["features"])))
    np.testing.assert_allclose(found, arrays["adapted"], atol=1e-4)


@pytest.mark.parametrize("loss", ["supcon", "symmetric", "triplet"])
def test_similarities_are_those_of_the_whole_batch(arrays, loss):
    """Four devices learn what one does: a row has partners on all of them."""
    rng = np.random.default_rng(0)
    vectors = arrays["features"]
    results = []
    for devices in (1, 4):
        mesh = make_mesh(1, jax.devices()[:devices])
        params = init_params(24, 8, 0, seed=3)
        learner = LinearCandidate(vectors, params, build_loss(loss, {}), Recipe(), mesh)
        photos = np.argsort(arrays["labels"], kind="stable")[rng.permutation(240).reshape(120, 2)]
        photos = np.sort(photos, axis=1).reshape(-1)[:64]
        for step in range(5):
            learner.step(step, photos, arrays["labels"][photos])
        results.append(learner.snapshot().weight)
        rng = np.random.default_rng(0)
    np.testing.assert_allclose(results[0], results[1], atol=2e-5)


def test_the_first_weights_are_the_identity_or_uniform():
    params = init_params(24, None, 0, seed=0)
    np.testing.assert_array_equal(params["weight"], np.eye(24))
    weight = np.asarray(init_params(300, 200, 0, seed=0)["weight"])
    bound = np.sqrt(6 / 500)  # Glorot and Bengio 2010, Eq. 16
    assert weight.shape == (200, 300) and abs(weight).max() <= bound
    np.testing.assert_allclose(weight.std(), bound / np.sqrt(3), rtol=0.02)
