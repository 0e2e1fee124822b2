"""Encoding of some of the patches: positions are added first, then the others are left out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dino_jax.devices.kernels.branches import MIB, Branches
from dino_jax.devices.kernels.shared_weights import SharedWeights
from dino_jax.devices.sharding import batch_sharding, make_mesh, state_sharding
from dino_jax.models.block import Block
from dino_jax.models.crops import Crops
from dino_jax.models.vision_transformer import VisionTransformer
from tests.plain_dino import layer_norm

DIM, DEPTH, HEADS, PATCHES, KEPT = 16, 2, 2, 9, 4
CASES = {
    "plain": {},
    "registers": {"registers": 2},
    "everything computed again": {"remat": "full"},
}


def make_vit(**changes) -> VisionTransformer:
    settings = dict(embed_dim=DIM, depth=DEPTH, num_heads=HEADS, patch_size=8, image_size=(24, 24))
    return VisionTransformer(**settings | changes)


def random_params(vit: VisionTransformer):
    shapes = jax.eval_shape(vit.init, jax.random.key(0), jnp.zeros((1, 24, 24, 3)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes)


def draw_inputs(batch: int = 4):
    """Images, the patches that are visible, in no order, and cotangents of the features."""
    rng = np.random.default_rng(1)
    images = rng.normal(size=(batch, 24, 24, 3)).astype(np.float32)
    visible = np.array([rng.permutation(PATCHES)[:KEPT] for _ in range(batch)], np.int32)
    weights = rng.normal(size=(batch, 1 + KEPT, DIM)).astype(np.float32)
    return images, visible, weights


def encode_by_hand(vit, variables, images, visible):
    """[B, 1 + k, D]: all tokens, then a gather, then block after block."""
    params = variables["params"]
    first = 1 + vit.registers
    tokens = vit.apply(variables, images, method="embed")
    rows = np.concatenate([np.tile(np.arange(first), (len(images), 1)), first + visible], axis=1)
    tokens = jnp.stack([sample[row] for sample, row in zip(tokens, rows, strict=True)])
    block = Block(DIM, HEADS, 4.0)
    for index in range(DEPTH):
        layer = jax.tree.map(lambda x, index=index: x[index], params["blocks"])
        (tokens,), _ = block.apply({"params": layer}, (tokens,))
    tokens = layer_norm(tokens, params["norm"]["scale"], params["norm"]["bias"])
    return jnp.concatenate([tokens[:, :1], tokens[:, first:]], axis=1)


def loss_of(encode, weights):
    def loss(variables, images, visible):
        tokens = encode(variables, images, visible)
        return jnp.sum(tokens * weights), tokens

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))


def encode(vit):
    def run(variables, images, visible):
        features = vit.apply(variables, images, None, visible)
        return jnp.concatenate([features["cls"][:, None], features["patches"]], axis=1)

    return run


def assert_same(got, expected):
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        scale = max(float(np.abs(theirs).max()), 1e-3)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * scale)


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES.keys())
def test_features_and_gradients_are_those_of_a_gather_by_hand(changes):
    vit = make_vit(**changes)
    variables, (images, visible, weights) = random_params(vit), draw_inputs()
    by_hand = loss_of(lambda v, x, _: encode_by_hand(vit, v, x, visible), weights)
    expected = by_hand(variables, images, visible)
    got = loss_of(encode(vit), weights)(variables, images, visible)
    assert_same(got, expected)
    d_images = got[1][1]
    hidden = np.setdiff1d(np.arange(PATCHES), visible[0])[0]
    row, column = divmod(hidden, 3)
    corner = d_images[0, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
    np.testing.assert_array_equal(corner, 0)


@pytest.mark.parametrize(("fsdp", "vmem"), [(1, 100), (2, 100), (2, 0)])
def test_the_devices_of_a_mesh_compute_the_same(fsdp, vmem):
    vit = make_vit(registers=1)
    variables, (images, visible, weights) = random_params(vit), draw_inputs()
    expected = loss_of(encode(vit), weights)(variables, images, visible)
    mesh = make_mesh(fsdp, jax.devices()[:4])
    branches = Branches(SharedWeights(mesh), vit.norm_epsilon, vmem * MIB, interpret=True)
    step = loss_of(encode(vit.clone(branches=branches)), weights)
    placed = jax.device_put(variables, state_sharding(mesh, variables))
    rows = jax.device_put((images, visible), batch_sharding(mesh))
    assert_same(step(placed, *rows), expected)


def test_groups_with_and_without_hidden_patches_go_through_the_blocks_together():
    vit = make_vit()
    variables, (images, visible, _) = random_params(vit), draw_inputs()
    groups = [Crops(images, visible=visible), Crops(images)]
    some, whole = vit.apply(variables, groups, method="encode_groups")
    assert_same(some, vit.apply(variables, images, None, visible))
    assert_same(whole, vit.apply(variables, images))
    everything = np.tile(np.arange(PATCHES, dtype=np.int32), (4, 1))
    assert_same(whole, vit.apply(variables, images, None, everything))


@pytest.mark.parametrize(
    ("visible", "message"),
    [
        (np.zeros((3, 2), np.int32), r"visible must be int32 \[4 images, up to 9 patches\]"),
        (np.zeros((4, 2), np.int64), "visible must be int32"),
        (np.zeros((4, 10), np.int32), r"got int32 \(4, 10\)"),
    ],
)
def test_indices_that_do_not_fit_are_a_clear_error(visible, message):
    vit, images = make_vit(), draw_inputs()[0]
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: vit.init(jax.random.key(0), images, None, visible))
