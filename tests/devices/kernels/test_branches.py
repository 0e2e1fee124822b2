"""The kernels of the residual branches, run by Pallas' interpreter, against the plain blocks."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dino_jax.devices.kernels.branches import MIB, Branches
from dino_jax.devices.kernels.shared_weights import SharedWeights
from dino_jax.devices.sharding import batch_sharding, make_mesh, state_sharding
from dino_jax.models.crops import Crops
from dino_jax.models.rope import Config as Rope
from dino_jax.models.vision_transformer import VisionTransformer

CASES = {
    "two heads side by side": {},
    "one head at a time": {"embed_dim": 24, "num_heads": 3},
    "heads as wide as a register": {"num_heads": 1},
    "layer scale, registers": {"layer_scale": 0.5, "registers": 2},
    "another epsilon": {"norm_epsilon": 1e-2},
    "no biases": {"qkv_bias": False, "proj_bias": False, "ffn_bias": False},
    "swiglu": {"ffn": "swiglu"},
    "keys without bias": {"key_bias": False, "registers": 2},
    "queries and keys turn": {
        **{"position": "rope", "rope": Rope(rescale=2.0), "registers": 2, "key_bias": False},
        **{"ffn": "swiglu64", "cls_norm": True, "local_cls_norm": True},
    },
    "dropped samples": {"drop_path_rate": 0.5},
    "subsets": {
        **{"drop_path_rate": 0.5, "drop_path_kind": "subset"},
        **{"drop_path_schedule": "uniform", "drop_path_group": 2},
    },
    "everything computed again": {"remat": "full"},
    "named values kept": {"remat": "names"},
    "no loop over the blocks": {"depth": 2, "scan_unroll": 2},
}

# Devices 0 and 2, and 1 and 3, of the 2 x 2: by number, or as newer compilers write them.
ACROSS = ("replica_groups={{0,2},{1,3}}", "replica_groups=mesh['data'=2,'fsdp'=2] {'data'}")


def make_vit(**changes) -> VisionTransformer:
    settings = dict(embed_dim=128, depth=1, num_heads=2, patch_size=8, image_size=(24, 24))
    return VisionTransformer(**settings | changes)


def with_kernels(
    vit: VisionTransformer, devices: int = 1, fsdp: int = 1, vmem: int = 100, **sharing
) -> VisionTransformer:
    mesh = make_mesh(fsdp, jax.devices()[:devices])
    return vit.clone(
        branches=Branches(
            SharedWeights(mesh, **sharing), vit.norm_epsilon, vmem * MIB, interpret=True
        )
    )


def random_params(vit: VisionTransformer):
    """Values of order one, so that every branch counts."""
    shapes = jax.eval_shape(vit.init, jax.random.key(0), jnp.zeros((1, 24, 24, 3)))
    leaves, tree = jax.tree.flatten(shapes)
    draws = np.random.default_rng(0)
    return jax.tree.unflatten(
        tree, [draws.normal(0, 0.3, leaf.shape).astype(np.float32) for leaf in leaves]
    )


def crops_of_two_sizes(images: int = 4) -> list[Crops]:
    """A large crop and two small ones of every image."""
    draws = np.random.default_rng(1)
    return [
        Crops(draws.normal(size=(images * views, size, size, 3)).astype(np.float32))
        for size, views in ((24, 1), (16, 2))
    ]


def make_gradient(vit):
    """(params, images of both sizes) -> ((loss, features), gradients); every token counts."""

    def loss(params, images):
        groups = [Crops(x) for x in images]
        rngs = {"drop_path": jax.random.key(2)}
        features = vit.apply(params, groups, rngs=rngs, method="encode_groups")
        weights = jax.tree.map(
            lambda x: jax.random.normal(jax.random.key(x.size), x.shape).astype(x.dtype), features
        )
        terms = jax.tree.map(lambda x, w: jnp.sum((x * w).astype(jnp.float32)), features, weights)
        return sum(jax.tree.leaves(terms)), features

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))


def loss_and_gradients(vit, params, crops):
    (_, features), gradients = make_gradient(vit)(params, [x.images for x in crops])
    return features, gradients


def assert_close(actual, expected, tolerance):
    """Up to a share of the largest number of an array."""
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(np.abs(b).max(), 1e-3))


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES.keys())
def test_kernels_compute_what_the_plain_blocks_do(changes):
    vit = make_vit(**changes)
    params, crops = random_params(vit), crops_of_two_sizes()
    plain = loss_and_gradients(vit, params, crops)
    fused = loss_and_gradients(with_kernels(vit), params, crops)
    assert_close(fused[0], plain[0], 1e-5)
    assert_close(fused[1], plain[1], 1e-4)


def test_in_bfloat16_they_differ_by_rounding_only():
    vit = make_vit(dtype=jnp.bfloat16)
    params, crops = random_params(vit), crops_of_two_sizes()
    exact = loss_and_gradients(make_vit(), params, crops)
    plain = loss_and_gradients(vit, params, crops)
    fused = loss_and_gradients(with_kernels(vit), params, crops)

    def error(result):
        pairs = zip(jax.tree.leaves(result), jax.tree.leaves(exact), strict=True)
        return [
            float(np.linalg.norm(np.asarray(a, np.float32) - b) / max(np.linalg.norm(b), 1e-3))
            for a, b in pairs
        ]

    assert np.mean(error(fused)) < 1.1 * np.mean(error(plain))
    assert max(error(fused)) < 0.1


@pytest.mark.parametrize(
    ("fsdp", "ring", "vmem"), [(1, 0, 100), (2, 0, 100), (4, 2, 100), (1, 0, 0), (4, 2, 0)]
)
def test_weights_are_gathered_and_their_gradients_summed_over_the_devices(fsdp, ring, vmem):
    vit = make_vit(registers=2, layer_scale=0.5)
    params, crops = random_params(vit), crops_of_two_sizes()
    mesh = make_mesh(fsdp, jax.devices()[:4])
    placed = jax.device_put(params, state_sharding(mesh, params))
    images = [jax.device_put(x.images, batch_sharding(mesh)) for x in crops]
    shardings = (state_sharding(mesh, params), [x.sharding for x in images])
    gradient = make_gradient(with_kernels(vit, 4, fsdp, vmem, ring=ring))
    program = jax.jit(gradient, out_shardings=(None, shardings)).lower(placed, images).compile()
    (_, features), gradients = program(placed, images)
    assert_close((features, gradients), loss_and_gradients(with_kernels(vit), params, crops), 1e-5)
    text = program.as_text()
    assert ("reduce-scatter(" in text) == (fsdp > 1)
    assert any(pairs in text for pairs in ACROSS) == (ring > 0 or fsdp == 2)
    assert "all-to-all" not in text


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_devices_sum_gradients_in_the_dtype_that_is_asked_for(dtype):
    vit = make_vit(dtype=jnp.bfloat16)
    params, crops = random_params(vit), crops_of_two_sizes()
    alone = loss_and_gradients(with_kernels(vit), params, crops)
    split = with_kernels(vit, 4, 4, gradient_dtype=dtype)
    assert_close(alone, loss_and_gradients(split, params, crops), 2e-2)
    program = make_gradient(split).lower(params, [x.images for x in crops]).as_text()
    sums = re.findall(r"stablehlo.reduce_scatter.*?\) -> tensor<[\dx]*(\w+)>", program, re.DOTALL)
    assert set(sums) == {"f32" if dtype == jnp.float32 else "bf16"}


@pytest.mark.parametrize("remat", ["none", "names"])
def test_a_backward_pass_gathers_weights_again_and_keeps_none(remat):
    vit = make_vit(remat=remat, depth=8, mlp_ratio=3.0)
    params, crops = random_params(vit), crops_of_two_sizes()
    mesh = make_mesh(4)
    placed = jax.device_put(params, state_sharding(mesh, params))
    program = make_gradient(with_kernels(vit, 4, 4, vmem=0)).lower(
        placed, [x.images for x in crops]
    )
    text = program.as_text()
    for leaf in jax.tree.leaves(params["params"]["blocks"]):
        *_, rows, columns = leaf.shape
        for copies in (f"4x{rows}x{columns}", f"1x{rows}x{columns}", f"{4 * rows}x{columns}"):
            assert leaf.ndim < 3 or f"tensor<{vit.depth}x{copies}xf32>" not in text


def test_devices_need_not_divide_the_crops():
    vit = make_vit()
    params, crops = random_params(vit), crops_of_two_sizes(3)
    plain = loss_and_gradients(vit, params, crops)
    fused = loss_and_gradients(with_kernels(vit, 2), params, crops)
    assert_close(fused[0], plain[0], 1e-5)
    assert_close(fused[1], plain[1], 1e-4)


@pytest.mark.parametrize(
    ("dim", "tokens", "vmem", "taken"),
    [
        (384, (197, 37), 112, (True, True)),
        (768, (197, 37), 112, (True, True)),
        (1024, (197, 37), 112, (True, True)),
        (1024, (197, 37), 56, (True, False)),
        (384, (1370,), 112, (False, False)),
    ],
)
def test_what_does_not_fit_is_left_to_xla(dim, tokens, vmem, taken):
    branches = Branches(SharedWeights(make_mesh(1, jax.devices()[:1])), vmem=vmem * MIB)
    took = (branches.take_attention(dim, tokens), branches.take_mlp(dim, 4 * dim, tokens))
    assert took == taken
