"""Attention over long sequences, run by Pallas' interpreter, against the plain one."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dino_jax.devices.kernels import branches as kernel_table
from dino_jax.devices.kernels import long_attention as kernel
from dino_jax.devices.kernels.branches import MIB, Branches
from dino_jax.devices.kernels.long_attention import Blocks, cut, long_attention
from dino_jax.devices.kernels.shared_weights import SharedWeights
from dino_jax.devices.sharding import make_mesh
from dino_jax.models.attention import attend
from dino_jax.models.vision_transformer import VisionTransformer

TOLERANCES = {jnp.float32: 1e-5, jnp.bfloat16: 2e-2}


def mesh_of(devices: int):
    return make_mesh(1, jax.devices()[:devices])


def draw(tokens: int, samples: int, dtype) -> list[jax.Array]:
    """Queries, keys and values of two heads of 64 channels."""
    draws = np.random.default_rng(0)
    return [jnp.asarray(draws.normal(0, 2, (samples, tokens, 2, 64)), dtype) for _ in range(3)]


def result_and_gradients(attention, inputs):
    """Of a sum in which every number has a weight of its own."""

    def loss(*inputs):
        mixed = attention(*inputs)
        weights = jax.random.normal(jax.random.key(1), mixed.shape)
        return jnp.sum(mixed.astype(jnp.float32) * weights), mixed

    grad = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
    (_, mixed), gradients = jax.jit(grad)(*inputs)
    return [mixed, *gradients]


def assert_close(actual, expected, tolerance):
    """Up to a share of the largest number of an array."""
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


def test_every_query_gets_the_softmax_mean_of_the_values():
    queries, keys, values = (np.asarray(x) for x in draw(150, 1, jnp.float32))
    exps = np.exp(np.einsum("bqhd,bkhd->bhqk", queries, keys) / 8)
    expected = np.einsum("bhqk,bkhd->bqhd", exps / exps.sum(-1, keepdims=True), values)
    mixed = long_attention(*map(jnp.asarray, (queries, keys, values)), interpret=True)
    np.testing.assert_allclose(mixed, expected.reshape(1, 150, 128), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("tokens", [128, 150], ids=["no padding", "padding"])
def test_gradients_are_those_of_plain_attention(tokens, dtype):
    inputs = draw(tokens, 2, dtype)
    plain = result_and_gradients(lambda *x: attend(*x)[0], inputs)
    fused = result_and_gradients(lambda *x: long_attention(*x, interpret=True), inputs)
    assert [x.dtype for x in fused] == [dtype] * 4
    assert_close(fused, plain, TOLERANCES[dtype])


@pytest.mark.parametrize("together", [1, 3])
def test_blocks_add_up(together, monkeypatch):
    monkeypatch.setattr(kernel, "MAX_BLOCK", 128)
    monkeypatch.setattr(kernel, "MAX_BLOCKS_OF_KEYS", together)
    assert cut(300) == Blocks(128, 3, together)
    inputs = draw(300, 1, jnp.float32)
    plain = result_and_gradients(lambda *x: attend(*x)[0], inputs)
    fused = result_and_gradients(lambda *x: long_attention(*x, interpret=True), inputs)
    assert_close(fused, plain, 1e-5)


@pytest.mark.parametrize(
    ("tokens", "blocks"),
    [
        (513, Blocks(384, 2, 2)),
        (1370, Blocks(512, 3, 3)),  # 518 pixels in patches of 14
        (4097, Blocks(512, 9, 3)),
        (5500, Blocks(512, 11, 1)),
    ],
)
def test_blocks_hold_all_tokens(tokens, blocks):
    assert cut(tokens) == blocks
    assert blocks.size * blocks.number >= tokens


def vit_with_kernels(vit: VisionTransformer) -> VisionTransformer:
    table = Branches(SharedWeights(mesh_of(2)), vit.norm_epsilon, 100 * MIB, interpret=True)
    return vit.clone(branches=table)


@pytest.mark.parametrize("remat", ["names", "full"])
def test_a_vit_on_dropped_subsets_trains_as_without_kernels(remat, monkeypatch):
    monkeypatch.setattr(kernel_table, "MAX_TOKENS", 16)
    vit = VisionTransformer(
        **{"embed_dim": 16, "depth": 1, "num_heads": 2, "patch_size": 4, "image_size": (20, 20)},
        **{"drop_path_rate": 0.5, "drop_path_kind": "subset", "drop_path_schedule": "uniform"},
        **{"remat": remat, "token_std": 1.0},
    )
    images = jax.random.normal(jax.random.key(0), (6, 20, 20, 3))  # 3 of 6 for 2 devices
    params = jax.jit(vit.init)(jax.random.key(1), images)

    def loss(params, vit):
        features = vit.apply(params, images, rngs={"drop_path": jax.random.key(2)})
        return jnp.sum(features["patches"][..., :7] ** 2) + jnp.sum(features["cls"][:, :5])

    grad = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    fused = grad.lower(params, vit_with_kernels(vit))
    assert "splash" in fused.as_text(debug_info=True)
    assert_close(fused.compile()(params), grad(params, vit), 1e-4)


def test_asked_for_attention_weights_a_vit_has_them(monkeypatch):
    monkeypatch.setattr(kernel_table, "MAX_TOKENS", 16)
    vit = VisionTransformer(embed_dim=16, depth=1, num_heads=2, patch_size=4, image_size=(20, 20))
    images = jax.random.normal(jax.random.key(0), (2, 20, 20, 3))
    params = jax.jit(vit.init)(jax.random.key(1), images)

    @partial(jax.jit, static_argnums=0)
    def weights(vit):
        return vit.apply(params, images, method="attention")

    np.testing.assert_array_equal(weights(vit_with_kernels(vit)), weights(vit))


@pytest.mark.parametrize(
    ("tokens", "vmem", "taken"), [(512, 56, False), (513, 56, True), (1370, 0, False)]
)
def test_long_sequences_are_taken_on_devices_with_kernels(tokens, vmem, taken):
    table = Branches(SharedWeights(mesh_of(1)), vmem=vmem * MIB)
    assert table.take_long_attention(tokens) == taken
