"""The ViT of DINOv2 against recorded outputs of the official code."""

import json
import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dino_jax.models.position import resize_position_embedding
from dino_jax.models.vision_transformer import VisionTransformer
from dino_jax.models.vit import SIZES
from dino_jax.weights import from_torch, to_torch
from tests.models.sketch import assert_gradients_equal

NAMES = json.loads((Path(__file__).parents[1] / "golden/v2/a_names_and_init.json").read_text())
IMAGES = ("98x98", "42x42", "56x70")
V2 = dict(layer_scale=1e-5, has_mask_token=True, token_std=1e-6)
TOKENS = {"cls": "clstoken", "registers": "regtokens", "patches": "patchtokens"}
REGISTERS = dict(registers=4, position_kernel="antialiased")


def tiny_vit(**changes) -> VisionTransformer:
    settings = dict(embed_dim=48, depth=3, num_heads=3, patch_size=14, image_size=(98, 98))
    return VisionTransformer(**settings | V2 | changes)


def swiglu_vit(**changes) -> VisionTransformer:
    return tiny_vit(ffn="swiglu", **REGISTERS | changes)


def init_shapes(vit, *inputs):
    return jax.eval_shape(vit.init, jax.random.key(0), *inputs)["params"]


def shapes_of(vit):
    return init_shapes(vit, jnp.zeros((1, *vit.image_size, 3)))


@pytest.fixture(scope="module")
def recorded(golden):
    return golden("v2/a_vit_swiglufused_reg4")


@pytest.fixture(scope="module")
def variables(recorded):
    state_dict = {name[3:]: recorded[name] for name in recorded.files if name.startswith("sd/")}
    like = {"params": {"backbone": shapes_of(swiglu_vit())}}
    return {"params": from_torch(state_dict, like)["params"]["backbone"]}


def image(golden, size):
    return np.transpose(golden("v2/a_inputs")[f"x/{size}"], (0, 2, 3, 1))


@pytest.mark.parametrize("size", IMAGES)
def test_forward_equals_official_with_and_without_masks(golden, recorded, variables, size):
    vit, images = swiglu_vit(), image(golden, size)[:1]
    masks = golden("v2/a_inputs")[f"mask/{size}"][:1]
    assert masks.any()
    for kind, mask in (("nomask", None), ("mask", masks)):
        features = jax.jit(vit.apply)(variables, images, mask)
        for ours, theirs in TOKENS.items():
            expected = recorded[f"out/{size}/{kind}/x_norm_{theirs}"]
            np.testing.assert_allclose(features[ours], expected, rtol=0, atol=2e-5)


def test_intermediate_layers_equal_official(golden, recorded, variables):
    vit = swiglu_vit()
    intermediate = partial(vit.apply, method="intermediate")
    layers = jax.jit(partial(intermediate, layers=(0, 1, 2)))(variables, image(golden, "42x42"))
    for index, features in enumerate(layers):
        for ours, theirs in (("cls", "cls"), ("patches", "patch")):
            expected = recorded[f"il/42x42/{index}/{theirs}"]
            np.testing.assert_allclose(features[ours], expected, rtol=0, atol=2e-5)
    raw = jax.jit(partial(intermediate, layers=(0, 2), normalize=False))(
        variables, image(golden, "56x70")
    )
    for index, features in enumerate(raw):
        maps = np.transpose(np.reshape(features["patches"], (1, 4, 5, 48)), (0, 3, 1, 2))
        expected = recorded[f"il_reshape_nonorm/56x70/layers02/{index}"]
        np.testing.assert_allclose(maps, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("remat", ["none", "names"])
def test_gradients_equal_official_through_masks_and_registers(golden, recorded, variables, remat):
    vit, direction = swiglu_vit(remat=remat), jnp.linspace(-1, 1, 48)
    images, masks = image(golden, "98x98"), golden("v2/a_inputs")["mask/98x98"]

    def scalar(variables):
        features = vit.apply(variables, images, masks)
        return jnp.sum(features["cls"] * direction) + jnp.mean(
            features["patches"] * direction[::-1]
        )

    value, grads = jax.jit(jax.value_and_grad(scalar))(variables)
    np.testing.assert_allclose(value, recorded["grad_scalar"], rtol=0, atol=2e-5)
    ours = to_torch({"params": {"backbone": grads["params"]}})
    ours = {name.removeprefix("backbone."): value for name, value in ours.items()}
    assert {f"grad/{name}" for name in ours} == {
        name for name in recorded.files if name.startswith("grad/")
    }
    assert_gradients_equal(ours, recorded, "grad/")


@pytest.mark.parametrize("size", [*IMAGES, "154x154"])
@pytest.mark.parametrize(
    ("recording", "kernel"),
    [("a_vit_mlp_reg0", "bicubic"), ("a_vit_swiglufused_reg4", "antialiased")],
)
def test_positions_equal_official_at_every_size(golden, recording, kernel, size):
    arrays = golden(f"v2/{recording}")
    height, width = map(int, size.split("x"))
    ours = resize_position_embedding(
        jnp.asarray(arrays["sd/pos_embed"][..., :8]),
        (7, 7),
        (height // 14, width // 14),
        (height, width),
        kernel,
    )
    np.testing.assert_allclose(ours, arrays[f"posembed/{size}"], rtol=0, atol=2e-6)


def test_attention_includes_the_registers_between_cls_and_patches(golden, variables):
    vit, images = swiglu_vit(), image(golden, "42x42")
    weights = vit.apply(variables, images, method="attention")
    assert weights.shape == (1, 3, 1 + 4 + 9, 1 + 4 + 9)
    np.testing.assert_allclose(np.sum(weights, -1), 1.0, rtol=1e-5)
    tokens = vit.apply(variables, images, method="embed")
    registers = variables["params"]["register_tokens"]
    np.testing.assert_array_equal(tokens[:, 1:5], registers)


def test_a_vit_without_the_options_has_none_of_their_parameters():
    params = shapes_of(tiny_vit(layer_scale=0.0, has_mask_token=False))
    assert set(params) == {"patch_embed", "cls_token", "pos_embed", "blocks", "norm"}
    assert set(params["blocks"]) == {"norm1", "attention", "norm2", "mlp"}
    without = shapes_of(tiny_vit(qkv_bias=False, proj_bias=False, ffn_bias=False))["blocks"]
    for module in (*without["attention"].values(), *without["mlp"].values()):
        assert set(module) == {"kernel"}


def test_wrong_masks_are_a_clear_error():
    images = jnp.zeros((2, 28, 28, 3))
    with pytest.raises(ValueError, match="has_mask_token=True"):
        init_shapes(tiny_vit(has_mask_token=False), images, jnp.zeros((2, 4), bool))
    for masks in (jnp.zeros((2, 1), bool), jnp.zeros((2, 4))):
        with pytest.raises(ValueError, match=r"masks must be bool \(2, 4\)"):
            init_shapes(tiny_vit(), images, masks)


def test_initial_values_have_the_official_spread():
    vit = tiny_vit(**REGISTERS)
    init = jax.jit(vit.init)(jax.random.key(0), jnp.zeros((1, 98, 98, 3)))["params"]
    ours = to_torch({"params": {"backbone": init}})
    official = NAMES["init_stats_tiny(name->[shape,mean,std,min,max])"]
    assert set(ours) == {f"backbone.{name}" for name in official}
    for name, (shape, mean, std, low, high) in official.items():
        value = ours[f"backbone.{name}"]
        assert list(value.shape) == shape
        mean_error = 10 * std / value.size**0.5
        error = 5 / value.size**0.5
        np.testing.assert_allclose(value.mean(), mean, rtol=1e-6, atol=mean_error, err_msg=name)
        np.testing.assert_allclose(value.std(), std, rtol=error, atol=1e-12, err_msg=name)
        if "patch_embed" in name:  # uniform: the extremes are known too
            np.testing.assert_allclose([value.min(), value.max()], [low, high], rtol=0.1)


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("size", ["small", "base", "large", "giant"])
def test_names_shapes_and_counts_of_the_released_models(size, registers):
    official = NAMES["hub_param_names"][f"vit_{size.replace('giant', 'giant2')}_reg{registers}"]
    settings = dict(**V2, registers=registers, patch_size=14, image_size=(518, 518))
    settings["ffn"] = "swiglu" if size == "giant" else "mlp"
    params = shapes_of(VisionTransformer(**SIZES[size]._asdict(), **settings))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == official["n_params"]
    assert SIZES[size].depth == official["depth"]
    one_block = SIZES[size]._replace(depth=1)
    params = shapes_of(VisionTransformer(**one_block._asdict(), **settings))
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), params)
    ours = {
        name.removeprefix("backbone."): list(value.shape)
        for name, value in to_torch({"params": {"backbone": zeros}}).items()
    }
    assert ours == official["names"]


def test_names_with_chunks_are_read():
    vit = tiny_vit(depth=6)
    like = {"params": {"backbone": shapes_of(vit)}}
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), like)
    plain = to_torch(params)
    chunked = {
        name: plain["backbone." + re.sub(r"^blocks\.[01]\.", "blocks.", name)]
        for name in NAMES["chunked_names_depth6_chunks2"]
    }
    assert any(name.startswith("blocks.1.5.") for name in chunked)
    ours = from_torch(chunked, like)
    jax.tree.map(np.testing.assert_array_equal, ours, params)
