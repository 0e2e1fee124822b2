"""Rules by place in the tree, against the parameter groups that the official code recorded."""

import functools
import gzip
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dino_jax.models.dino_head import DinoHead
from dino_jax.models.network import Network
from dino_jax.models.vision_transformer import VisionTransformer
from dino_jax.models.vit import SIZES
from dino_jax.optim import parameter_groups
from dino_jax.weights.torch_names import to_torch

GOLDEN = Path(__file__).parents[1] / "golden/v2/d_param_groups.json.gz"
# {network: {official name: [factor of the learning rate, of the decay, is a last layer]}}
OFFICIAL = json.loads(gzip.decompress(GOLDEN.read_bytes()))
LAYER_DECAY, PATCH_EMBED = 0.9, 0.2

DEPTH, DIM = 3, 4
PARAMS = jax.tree.map(
    lambda shape: jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32),
    {
        "backbone": {
            "cls_token": (1, 1, DIM),
            "pos_embed": (1, 5, DIM),
            "patch_embed": {"kernel": (2, 2, 3, DIM), "bias": (DIM,)},
            "blocks": {
                "norm1": {"scale": (DEPTH, DIM), "bias": (DEPTH, DIM)},
                "attention": {"qkv": {"kernel": (DEPTH, DIM, 12), "bias": (DEPTH, 12)}},
                "layer_scale1": {"gamma": (DEPTH, DIM)},
            },
            "norm": {"scale": (DIM,), "bias": (DIM,)},
        },
        "heads_dino": {
            "linear_0": {"kernel": (DIM, 6), "bias": (6,)},
            "norm_0": {"scale": (6,), "bias": (6,)},
            "last_layer": {"prototypes": (8, 6), "gain": (8, 1)},
        },
    },
    is_leaf=lambda x: isinstance(x, tuple),
)


def make_network(size, **options):
    """The network of a recorded case: a backbone of DINOv2 and one head."""
    shape = SIZES[size]
    backbone = VisionTransformer(
        embed_dim=shape.embed_dim,
        depth=shape.depth,
        num_heads=shape.num_heads,
        patch_size=14,
        image_size=(518, 518),
        in_channels=3,
        mlp_ratio=4.0,
        drop_path_rate=0.0,
        position_kernel="bicubic",
        dtype=jnp.float32,
        layer_scale=1e-5,
        has_mask_token=True,
        **options,
    )
    head = DinoHead(64, 8, 8, 3, batch_norm=False, train_gain=True)
    return Network(backbone, {"dino": head}, (0.0,) * 3, (1.0,) * 3)


@functools.cache
def groups(size, **options):
    """{official name: [factor of the learning rate, of the decay, is a last layer]} of ours."""
    init = functools.partial(make_network(size, **options).init, method="init_all")
    shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 28, 28, 3)))["params"]
    # Only ranks and depth matter: one element per tensor keeps ViT-g small.
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.zeros(
            (leaf.shape[0], *[1] * (leaf.ndim - 1))
            if parameter_groups.is_stacked(path)
            else [1] * leaf.ndim
        ),
        shapes,
    )
    decayed = jax.tree_util.tree_map_with_path(parameter_groups.is_decayed, params)
    labels = parameter_groups.label_frozen(params)
    rules = (
        parameter_groups.lr_multipliers(params, LAYER_DECAY, PATCH_EMBED),
        decayed,
        jax.tree.map(lambda label: label == "last_layer", labels),
    )
    tables = []
    for rule in rules:
        filled = jax.tree.map(lambda leaf, value: leaf + value, params, rule)
        tables.append(to_torch({"params": filled}))
    return {
        name.removeprefix("backbone.").removeprefix("head."): [
            table[name].item() for table in tables
        ]
        for name in tables[0]
    }


@pytest.mark.parametrize(
    ("case", "size", "options"),
    [
        ("vit_small14_reg4", "small", dict(registers=4)),
        ("vit_giant14", "giant", dict(ffn="swiglu")),
    ],
)
def test_every_parameter_is_in_its_official_group(case, size, options):
    official = dict(OFFICIAL[case] | OFFICIAL["dino_head"])
    if case == "vit_giant14":  # recorded in 4 chunks: blocks.<chunk>.<block>
        official = {drop_chunk(name): group for name, group in official.items()}
    ours = groups(size, **options)
    assert ours.keys() == official.keys()
    for name, group in official.items():
        np.testing.assert_allclose(ours[name], group, rtol=1e-6, err_msg=name)


def drop_chunk(name):
    parts = name.split(".")
    return ".".join(parts[:1] + parts[2:]) if parts[0] == "blocks" else name


def test_without_layer_decay_only_the_patch_embedding_is_slower():
    factors = parameter_groups.lr_multipliers(PARAMS, 1.0, 0.2)
    slow = {"/".join(key.key for key in path) for path, x in leaves(factors) if np.any(x != 1)}
    assert slow == {"backbone/patch_embed/kernel", "backbone/patch_embed/bias"}


def test_layer_decay_needs_a_stack_of_blocks():
    params = {"backbone": {"conv1": {"kernel": jnp.ones((1, 1, 3, 8))}}}
    with pytest.raises(ValueError, match=r"layer_decay \(0.9\) needs a backbone with a stack"):
        parameter_groups.lr_multipliers(params, 0.9, 1.0)
    factors = parameter_groups.lr_multipliers(params, 1.0, 1.0)
    np.testing.assert_array_equal(factors["backbone"]["conv1"]["kernel"], 1)


def leaves(tree):
    return jax.tree_util.tree_leaves_with_path(tree)


def test_decay_applies_to_everything_but_biases_and_one_dimensional_tensors():
    mask = jax.tree_util.tree_map_with_path(parameter_groups.is_decayed, PARAMS)
    decayed = {"/".join(key.key for key in path) for path, leaf in leaves(mask) if leaf}
    assert decayed == {
        "backbone/cls_token",
        "backbone/pos_embed",
        "backbone/patch_embed/kernel",
        "backbone/blocks/attention/qkv/kernel",
        "heads_dino/linear_0/kernel",
        "heads_dino/last_layer/prototypes",
        "heads_dino/last_layer/gain",
    }


def test_a_bias_of_two_dimensions_is_not_decayed():
    params = {"dense": {"kernel": jnp.ones((2, 3, 4)), "bias": jnp.ones((3, 4))}}
    mask = jax.tree_util.tree_map_with_path(parameter_groups.is_decayed, params)
    assert mask == {"dense": {"kernel": True, "bias": False}}


def test_norms_are_per_layer_in_a_stack_and_broadcast_against_the_leaf():
    norms = jax.tree_util.tree_map_with_path(parameter_groups.tensor_norms, PARAMS)
    stacked = PARAMS["backbone"]["blocks"]["attention"]["qkv"]["kernel"]
    got = norms["backbone"]["blocks"]["attention"]["qkv"]["kernel"]
    assert got.shape == (DEPTH, 1, 1)
    want = [np.linalg.norm(np.asarray(layer).ravel()) for layer in stacked]
    np.testing.assert_allclose(got.ravel(), want, rtol=1e-6)
    kernel = PARAMS["backbone"]["patch_embed"]["kernel"]
    assert norms["backbone"]["patch_embed"]["kernel"].shape == (1, 1, 1, 1)
    want = np.linalg.norm(np.asarray(kernel).ravel())
    np.testing.assert_allclose(norms["backbone"]["patch_embed"]["kernel"].item(), want, rtol=1e-6)
