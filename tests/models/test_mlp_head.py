"""Projectors and predictors against NumPy, as SimCLR, BYOL and MoCo v3 have them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dino_jax.config.section import section
from dino_jax.models import mlp_head

# Layers, biases and norms of ssl methods: {variable: shape} of 10 channels in, 6 hidden, 4 out.
METHODS = {
    "BYOL": (
        dict(hidden_bias=True, first_kernels="truncated"),
        {"linear_0/kernel", "linear_0/bias", "norm_0/scale", "norm_0/bias", "linear_1/kernel"},
    ),
    "SimCLR": (
        dict(last_norm="scale", first_kernels="normal"),
        {"linear_0/kernel", "norm_0/scale", "norm_0/bias", "linear_1/kernel", "norm_1/scale"},
    ),
    "MoCo v3": (
        dict(last_norm="plain", layers=3),
        {f"{layer}/kernel" for layer in ("linear_0", "linear_1", "linear_2")}
        | {f"norm_{index}/{name}" for index in (0, 1) for name in ("scale", "bias")},
    ),
    "one layer": (dict(layers=1), {"linear_0/kernel"}),
}


def build(**changes):
    given = dict(kind="mlp", hidden_dim=6, out_dim=4) | changes
    return mlp_head.build(section("head", given, mlp_head.Config), jnp.float32)


def flat(tree):
    return {f"{a}/{b}": np.asarray(x) for a, part in tree.items() for b, x in part.items()}


def batch_norm(x, params, index):
    x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    return x * params.get(f"norm_{index}/scale", 1) + params.get(f"norm_{index}/bias", 0)


@pytest.mark.parametrize("method", METHODS)
def test_a_head_has_the_layers_of_its_method_and_computes_as_numpy(method):
    options, names = METHODS[method]
    head, rng = build(**options), np.random.default_rng(0)
    x = rng.normal(size=(16, 10)).astype(np.float32)
    variables = head.init(jax.random.key(0), x)
    draw = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), variables)
    params = flat(draw["params"])
    assert params.keys() == names

    expected, layers = x, options.get("layers", 2)
    for index in range(layers):
        expected = expected @ params[f"linear_{index}/kernel"]
        expected = expected + params.get(f"linear_{index}/bias", 0)
        if index < layers - 1:
            expected = np.maximum(batch_norm(expected, params, index), 0)
        elif "last_norm" in options:
            expected = batch_norm(expected, params, index)
    statistics = {k: v for k, v in variables.items() if k != "params"}
    got, _ = head.apply({"params": draw["params"], **statistics}, x, mutable=["batch_stats"])
    assert got.dtype == jnp.float32 and got.shape == (16, 4)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "row_wise"),
    [
        ({}, False),
        ({"batch_norm": False}, True),
        ({"batch_norm": False, "last_norm": "plain"}, False),
        ({"layers": 1}, True),
    ],
)
def test_a_head_with_batch_norm_is_not_row_wise(options, row_wise):
    assert build(**options).row_wise == row_wise


@pytest.mark.parametrize(
    ("init", "deviation"),
    [("uniform", (1 / 3 / 400) ** 0.5), ("truncated", 0.8796 * 400**-0.5), ("normal", 0.01)],
)
def test_the_spread_of_first_kernels_is_that_of_the_method(init, deviation):
    head = build(first_kernels=init, layers=1, out_dim=300)
    kernel = head.init(jax.random.key(0), jnp.zeros((1, 400)))["params"]["linear_0"]["kernel"]
    np.testing.assert_allclose(np.std(kernel), deviation, rtol=0.02)
