"""Functions of JAX as ONNX graphs, run by onnxruntime, and whole backbones."""

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest

from dino_jax.models import resnet, vit
from dino_jax.models.network import Network
from dino_jax.weights.onnx.convert import to_onnx

WEIGHTS = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
GRID = (4, 5, 3)


def run(function, shape, images):
    """The outputs of a function as an ONNX graph."""
    made = to_onnx(function, shape)
    onnx.checker.check_model(made, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(made.SerializeToString(), options)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": images}), strict=True))


def sums_in_a_loop(x):
    def turn(carry, row):
        carry = carry * 0.5 + row
        return carry, carry.sum(axis=0)

    rows = jnp.moveaxis(x, 1, 0)
    carry, each = jax.lax.scan(turn, jnp.zeros_like(rows[0]), rows, reverse=True)
    return carry, jnp.moveaxis(each, 0, -1)


FUNCTIONS = {
    "a product with free and summed axes": lambda x: jnp.einsum("bhwc,wk->bkhc", x, WEIGHTS),
    "a product of batches": lambda x: jnp.einsum("bhwc,bgwc->bhgw", x, 2 * x),
    "a product over two axes": lambda x: jnp.einsum("bhwc,hwk->bck", x, jnp.ones((4, 5, 2))),
    "softmax": lambda x: jax.nn.softmax(x, axis=2),
    "a mean, a variance": lambda x: (
        (x - x.mean((1, 2), keepdims=True)) / x.std((1, 2, 3))[:, None, None, None]
    ),
    "places of an axis": lambda x: (x[:, 2], x[:, -1:, 1:3], x[..., 0]),
    "an axis of size 1 that stays": lambda x: x[:, :1],
    "a constant beside each image": lambda x: jnp.concatenate(
        [jnp.broadcast_to(WEIGHTS[0, :3], (x.shape[0], 1, 3)), x[:, 0]], axis=1
    ),
    "a choice": lambda x: jnp.where(x > 100, x, -x / 3),
    "halves": lambda x: tuple(jnp.split(x, 2, axis=1)),
    "gelu, silu, powers": lambda x: (
        jax.nn.gelu(x / 99, approximate=False),
        jax.nn.silu(x / 99),
        (x / 99) ** 3,
        jax.lax.rsqrt(x + 1),
    ),
    "the largest of windows": lambda x: jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
    ),
    "a loop from the end": sums_in_a_loop,
    "merged axes": lambda x: x.reshape(x.shape[0], -1),
    "a rematerialized part": jax.checkpoint(lambda x: jnp.tanh(x) * 2),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_and_its_graph_agree_for_any_batch(name):
    def function(images):
        made = FUNCTIONS[name](images.astype(jnp.float32))
        return {f"out{i}": each for i, each in enumerate(made if type(made) is tuple else (made,))}

    for batch in (1, 2, 5):
        images = np.random.default_rng(batch).integers(0, 256, (batch, *GRID), np.uint8)
        found, expected = run(function, GRID, images), function(jnp.asarray(images))
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], value, rtol=1e-5, atol=1e-4, err_msg=key)


def test_an_operation_that_has_no_form_is_named():
    with pytest.raises(ValueError, match="the operation 'sort' of the network has no ONNX form"):
        to_onnx(lambda x: {"x": jnp.sort(x, axis=1)}, GRID)


BACKBONES = {
    "registers, layer scale": (vit, dict(registers=4, layer_scale=1.0, depth=3), (64, 64)),
    "swiglu": (vit, dict(ffn="swiglu", depth=2), (64, 64)),
    "another size than the table": (vit, dict(depth=2), (48, 80)),
    "rematerialized and unrolled": (vit, dict(depth=2, remat="names", scan_unroll=2), (64, 64)),
    "resnet50": (resnet, dict(), (64, 96)),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_and_its_graph_have_the_same_features(name):
    kind, changes, size = BACKBONES[name]
    if kind is vit:
        changes = dict(embed_dim=24, num_heads=3, patch_size=16, image_size=(64, 64)) | changes
    backbone = kind.build(kind.Config(**changes), jnp.float32)
    network = Network(backbone, {}, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    variables = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    images = np.random.default_rng(0).integers(0, 256, (3, *size, 3), np.uint8)
    found = run(lambda x: network.apply(variables, x), (*size, 3), images)
    expected = jax.jit(network.apply)(variables, images)
    assert found.keys() == expected.keys() >= {"cls", "patches"}
    for key, value in expected.items():
        assert np.abs(found[key] - value).max() <= 1e-5 * max(1, np.abs(value).max()), key
