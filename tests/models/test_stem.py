"""The stem of convolutions of MoCo v3's ViTs."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dino_jax.models import vit
from dino_jax.models.vision_transformer import VisionTransformer
from dino_jax.weights.torch_names import from_torch, to_torch

SSL = Path(__file__).parents[1] / "golden/ssl/c_names_init_schedule.json"
TINY = dict(
    embed_dim=48, depth=2, num_heads=3, patch_size=16, image_size=(64, 64), stem="convolutions"
)


def named(variables):
    named = to_torch({kind: {"backbone": tree} for kind, tree in variables.items()})
    return {name.removeprefix("backbone."): value for name, value in named.items()}


def init():
    module = VisionTransformer(**TINY)
    return module, jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


def convolve(x, kernel, stride):
    """NumPy: [B, H, W, C] with [out, in, k, k], zeros around."""
    side = kernel.shape[-1]
    pad = side // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), (1, 2))
    return np.einsum("bhwcij,ocij->bhwo", windows[:, ::stride, ::stride], kernel)


def plain_stem(tensors, x):
    for index in range(4):
        x = convolve(x, tensors[f"patch_embed.proj.{3 * index}.weight"], 2)
        x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
        scale, bias = (tensors[f"patch_embed.proj.{3 * index + 1}.{n}"] for n in ("weight", "bias"))
        x = np.maximum(x * scale + bias, 0)
    x = convolve(x, tensors["patch_embed.proj.12.weight"], 1)
    return x.reshape(len(x), -1, x.shape[-1]) + tensors["patch_embed.proj.12.bias"]


def test_the_stem_is_four_convolutions_with_batch_norm_and_a_linear_one():
    module, variables = init()
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), variables
    )
    images = rng.normal(size=(4, 70, 64, 3)).astype(np.float32)  # six rows belong to no patch
    bound = module.bind(variables, mutable=["batch_stats"])
    bound(images)
    tokens = bound.patch_embed(images)
    expected = plain_stem(named(variables), images[:, :64].astype(np.float64))
    np.testing.assert_allclose(tokens, expected, rtol=0, atol=1e-4)


def test_names_and_first_spreads_are_those_of_the_official_code():
    _, variables = init()
    ours = named(variables)
    official = {
        name.removeprefix("base_encoder.")
        for name in json.loads(SSL.read_text())["trained_convstem"]
        if name.startswith("base_encoder.") and ".head." not in name
    }
    running = {name for name in ours if ".running_" in name}
    assert set(ours) - running - {"pos_embed"} == official and len(running) == 8
    kernel = ours["patch_embed.proj.9.weight"]
    assert kernel.shape == (48, 24, 3, 3)
    np.testing.assert_allclose(np.abs(kernel).max(), (9 * 24) ** -0.5, rtol=0.01)
    like = {kind: {"backbone": tree} for kind, tree in variables.items()}
    again = from_torch(ours, like)
    jax.tree.map(np.testing.assert_array_equal, again, jax.device_get(like))


def test_a_vit_with_a_stem_encodes_crops_of_several_sizes():
    module, variables = init()
    features = jax.jit(partial(module.apply))(variables, jnp.ones((2, 32, 48, 3)))
    assert features["patches"].shape == (2, 6, 48)


@pytest.mark.parametrize("changes", [dict(patch_size=8), dict(embed_dim=12)])
def test_sizes_that_do_not_halve_are_refused(changes):
    given = dict(embed_dim=48, depth=1, num_heads=3, stem="convolutions") | changes
    with pytest.raises(ValueError, match=r"must be 16, embed_dim \(\d+\) a multiple of 8"):
        vit.build(vit.Config(**given), jnp.float32)
