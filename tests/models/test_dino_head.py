"""The projection head against recorded outputs of the official code."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dino_jax.models.dino_head import Config, DinoHead, build
from dino_jax.weights import from_torch, to_torch
from tests.models.sketch import assert_gradients_equal

CASES = {
    "norm": dict(layers=3, batch_norm=False, train_gain=False),
    "nonorm": dict(layers=3, batch_norm=False, train_gain=True),
    "bn": dict(layers=3, batch_norm=True, train_gain=False),
    "n1": dict(layers=1, batch_norm=False, train_gain=False),
    "n2": dict(layers=2, batch_norm=False, train_gain=True),
}


def load(golden, case):
    arrays = golden("v1/dino_head")
    head = DinoHead(out_dim=96, hidden_dim=64, bottleneck_dim=32, **CASES[case])
    state_dict = {
        name.removeprefix(f"{case}/sd/"): arrays[name]
        for name in arrays.files
        if name.startswith(f"{case}/sd/")
    }
    shapes = jax.eval_shape(head.init, jax.random.key(0), arrays["x"])
    like = {collection: {"heads_dino": tree} for collection, tree in shapes.items()}
    variables = from_torch(state_dict, like)
    return arrays, head, {name: tree["heads_dino"] for name, tree in variables.items()}, state_dict


@pytest.mark.parametrize("case", CASES)
def test_forward_and_gradients_equal_official(golden, case):
    arrays, head, variables, _ = load(golden, case)
    statistics = {name: tree for name, tree in variables.items() if name != "params"}

    def scalar(params, x):
        out, _ = head.apply({"params": params, **statistics}, x, mutable=["batch_stats"])
        return jnp.sum(out * arrays["cotangent"]), out

    grads, out = jax.grad(scalar, argnums=(0, 1), has_aux=True)(variables["params"], arrays["x"])
    np.testing.assert_allclose(out, arrays[f"{case}/out"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(grads[1], arrays[f"{case}/grad_x"], rtol=0, atol=2e-5)
    ours = to_torch({"params": {"heads_dino": grads[0]}})
    ours = {name.removeprefix("head."): value for name, value in ours.items()}
    assert_gradients_equal(ours, arrays, f"{case}/grad/")


def test_batch_norm_tracks_statistics_as_torch_does(golden):
    arrays, head, variables, _ = load(golden, "bn")
    _, after = head.apply(variables, arrays["x"], mutable=["batch_stats"])
    ours = to_torch(
        {
            "params": {"heads_dino": variables["params"]},
            "batch_stats": {"heads_dino": after["batch_stats"]},
        }
    )
    for name in (
        "mlp.1.running_mean",
        "mlp.1.running_var",
        "mlp.4.running_mean",
        "mlp.4.running_var",
    ):
        np.testing.assert_allclose(
            ours[f"head.{name}"], arrays[f"bn/sd_after/{name}"], rtol=0, atol=1e-6
        )
    still = head.apply({**variables, **after}, arrays["x"])
    np.testing.assert_allclose(still, arrays["bn/out_eval"], rtol=0, atol=2e-5)


def test_batch_norm_sees_views_and_images_as_one_batch(golden):
    arrays, head, variables, _ = load(golden, "bn")
    flat, _ = head.apply(variables, arrays["x"], mutable=["batch_stats"])
    views, _ = head.apply(variables, arrays["x"].reshape(4, 3, -1), mutable=["batch_stats"])
    np.testing.assert_allclose(views.reshape(12, -1), flat, rtol=0, atol=1e-6)


def test_initial_gains_are_one_and_prototypes_uniform():
    head = DinoHead(out_dim=4096, hidden_dim=8, bottleneck_dim=256, **CASES["nonorm"])
    last = head.init(jax.random.key(0), jnp.zeros((1, 4)))["params"]["last_layer"]
    np.testing.assert_array_equal(last["gain"], np.ones((4096, 1)))
    assert float(jnp.abs(last["prototypes"]).max()) <= 1 / 16
    assert abs(float(jnp.std(last["prototypes"])) - 1 / 16 / 3**0.5) < 1e-4


def test_a_linear_last_layer_normalizes_nothing():
    """As in DINOv3: a product with weights of standard deviation 0.02 and any length."""
    config = Config(out_dim=512, hidden_dim=32, bottleneck_dim=16, layers=2, last_layer="linear")
    head = build(config, jnp.float32)
    x = jax.random.normal(jax.random.key(1), (5, 24))
    variables = head.init(jax.random.key(0), x)
    weights = variables["params"]["last_layer"]["weights"]
    assert weights.shape == (512, 16) and abs(weights.std() / 0.02 - 1) < 0.05
    longer = jax.tree.map(jnp.copy, variables)
    longer["params"]["last_layer"]["weights"] = 3 * weights
    np.testing.assert_allclose(head.apply(longer, x), 3 * head.apply(variables, x), atol=1e-6)
    with pytest.raises(ValueError, match="last_layer='linear' has no gains; set train_gain=False"):
        build(dataclasses.replace(config, train_gain=True), jnp.float32)
