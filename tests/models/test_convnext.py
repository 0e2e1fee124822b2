"""The ConvNeXt that DINOv3 distills, against a second implementation in NumPy.

tests/parity/test_dinov3.py compares it with transformers' and timm's.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dino_jax.models.build import NetworkConfig, build_network
from dino_jax.models.convnext import Config, ConvNext, build
from dino_jax.models.crops import Crops

PARAMETERS = {"tiny": 27.8, "small": 49.5, "base": 87.6, "large": 196.2}  # millions


def tiny(**changes):
    return ConvNext(**{"depths": (1, 2), "width": 6, "layer_scale": 0.5} | changes)


def random_params(net):
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    draws = np.random.default_rng(0)
    return jax.tree.map(lambda x: draws.normal(0, 0.3, x.shape).astype(np.float32), shapes)


def images_of(height, width):
    draws = np.random.default_rng(height * width)
    return draws.normal(size=(2, height, width, 3)).astype(np.float32)


def norm(p, x):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def cut(p, x, size):
    """A convolution of cells, as a product of each cell with the kernel."""
    rows, columns = x.shape[1] // size, x.shape[2] // size
    cells = np.zeros((len(x), rows, columns, p["bias"].size))
    for r in range(rows):
        for c in range(columns):
            cell = x[:, r * size : (r + 1) * size, c * size : (c + 1) * size]
            cells[:, r, c] = np.einsum("bhwc,hwcd->bd", cell, p["kernel"]) + p["bias"]
    return cells


def block(p, x):
    padded = np.pad(x, ((0, 0), (3, 3), (3, 3), (0, 0)))
    y = np.zeros_like(x) + p["dwconv"]["bias"]
    for r in range(7):
        for c in range(7):
            y += padded[:, r : r + x.shape[1], c : c + x.shape[2]] * p["dwconv"]["kernel"][r, c, 0]
    y = norm(p["norm"], y) @ p["pwconv1"]["kernel"] + p["pwconv1"]["bias"]
    y = y * 0.5 * (1 + np.vectorize(math.erf)(y / math.sqrt(2)))
    return x + (y @ p["pwconv2"]["kernel"] + p["pwconv2"]["bias"]) * p["gamma"]


def plain(p, images):
    x = norm(p["downsample_0_1"], cut(p["downsample_0_0"], images.astype(float), 4))
    x = block(p["stage_0_0"], x)
    x = cut(p["downsample_1_1"], norm(p["downsample_1_0"], x), 2)
    x = block(p["stage_1_1"], block(p["stage_1_0"], x))
    cells = x.reshape(len(x), -1, x.shape[-1])
    return norm(p["norm"], cells.mean(1)), norm(p["norm"], cells)


@pytest.mark.parametrize("size", [(16, 16), (24, 40), (19, 33)])
def test_features_equal_the_second_implementation(size):
    net = tiny()
    params, images = random_params(net), images_of(*size)
    features = net.apply({"params": params}, images)
    cls, cells = plain(params, images)
    np.testing.assert_allclose(features["cls"], cls, rtol=0, atol=2e-5)
    np.testing.assert_allclose(features["patches"], cells, rtol=0, atol=2e-5)


@pytest.mark.parametrize("size", PARAMETERS)
def test_sizes_are_those_of_the_paper(size):
    net = build(Config(size=size), jnp.float32)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert round(count / 1e6, 1) == PARAMETERS[size]
    assert net.embed_dim == net.width * 8 and net.patch_size == 32


def test_a_dropped_branch_leaves_its_input():
    net = tiny(depths=(1,), drop_path_rate=0.5)
    assert net.drop_path_rate and list(net.depths) == [1]  # the only block has rate 0
    net = tiny(depths=(1, 1), drop_path_rate=0.999)
    params = random_params(net)
    silent = jax.tree.map(np.copy, params)
    silent["stage_1_0"]["gamma"][:] = 0
    images = images_of(16, 16)
    dropped = net.apply({"params": params}, images, rngs={"drop_path": jax.random.key(0)})
    expected = net.apply({"params": silent}, images)
    np.testing.assert_allclose(dropped["cls"], expected["cls"], atol=1e-6)
    still = net.apply({"params": params}, images)
    assert np.abs(still["cls"] - expected["cls"]).max() > 1e-3


def test_first_weights_are_those_of_the_paper():
    variables = tiny().init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    kernels = [x for x in jax.tree.leaves(variables) if x.ndim > 1]
    spread = np.std(np.concatenate([np.ravel(x) for x in kernels]))
    np.testing.assert_allclose(spread, 0.02, rtol=0.05)
    fresh = ConvNext((1,), 4).init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    np.testing.assert_array_equal(fresh["stage_0_0"]["gamma"], np.float32(1e-6))
    np.testing.assert_array_equal(fresh["stage_0_0"]["dwconv"]["bias"], 0)


def test_masks_and_missing_stages_are_clear_errors():
    net = tiny()
    crops = Crops(images_of(16, 16), masks=np.zeros((2, 4), bool))
    with pytest.raises(ValueError, match="has no mask token"):
        net.apply({"params": random_params(net)}, [crops], method="encode_groups")
    with pytest.raises(ValueError, match="at least one stage"):
        build_network(NetworkConfig(backbone=Config(depths=()), heads={}))
