"""First weights of MAE's and MoCo v3's ViTs, against recordings of the official code."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dino_jax.models import vit
from dino_jax.models.mlp_head import MlpHead
from dino_jax.models.position import sincos_table
from dino_jax.models.resnet import ResNet
from dino_jax.models.vision_transformer import VisionTransformer
from dino_jax.weights.torch_names import to_torch

SSL = Path(__file__).parents[1] / "golden/ssl"
MOCO = json.loads((SSL / "c_names_init_schedule.json").read_text())
INITS = json.loads((SSL / "m_names_init_schedule.json").read_text())["init"]


@pytest.mark.parametrize(
    "name, grid, rows_first", [("m_forward", (6, 6), False), ("c_positions", (4, 4), True)]
)
def test_sines_and_cosines_are_the_official_table(golden, name, grid, rows_first):
    recorded = golden(f"ssl/{name}")
    expected = recorded[f"pos_embed_48_{grid[0]}x{grid[1]}"].reshape(1, -1, 48)
    np.testing.assert_allclose(sincos_table(48, grid, rows_first), expected, rtol=0, atol=1e-6)
    rows = sincos_table(768, (14, 14), rows_first)[0, [1, 2, 15]]
    expected = recorded["pos_embed_768_14x14_rows_1_2_15"]
    np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-6)


def test_the_first_half_of_an_oblong_table_is_of_the_named_axis():
    rows = sincos_table(8, (2, 3), rows_first=True)[0, 1:].reshape(2, 3, 8)
    columns = sincos_table(8, (2, 3), rows_first=False)[0, 1:].reshape(2, 3, 8)
    assert (rows[:, :1, :4] == rows[:, :, :4]).all()
    assert (columns[:1, :, :4] == columns[:, :, :4]).all()
    np.testing.assert_array_equal(rows[..., 4:], columns[..., :4])


def first_weights(**settings):
    shape = dict(embed_dim=48, depth=2, num_heads=3, patch_size=8, image_size=(48, 48))
    module = VisionTransformer(**(shape | settings))
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 48, 48, 3)))["params"]
    named = to_torch({"params": {"backbone": params}})
    return {name.removeprefix("backbone."): value for name, value in named.items()}


def test_first_weights_of_mae_have_the_official_spread():
    ours = first_weights(position="columns_first", first_kernels="xavier")
    for name in ours:
        official, value = INITS[name], ours[name]
        assert list(value.shape) == official["shape"]
        error = 5 / value.size**0.5
        np.testing.assert_allclose(
            value.mean(), official["mean"], rtol=1e-6, atol=10 * official["std"] / value.size**0.5
        )
        np.testing.assert_allclose(value.std(), official["std"], rtol=error, atol=1e-12)
        if value.ndim > 1 and "token" not in name:  # uniform, or the table
            np.testing.assert_allclose(np.abs(value).max(), official["absmax"], rtol=0.02)


def test_first_weights_of_moco_v3_take_queries_keys_and_values_apart():
    ours = first_weights(position="rows_first", first_kernels="xavier_split", token_std=1e-6)
    qkv = ours["blocks.1.attn.qkv.weight"]
    np.testing.assert_allclose(np.abs(qkv).max(), (6 / (48 + 48)) ** 0.5, rtol=0.02)
    np.testing.assert_allclose(qkv.std(), (2 / (48 + 48)) ** 0.5, rtol=0.05)
    assert len({part.tobytes() for part in np.split(qkv, 3)}) == 3
    projection = ours["patch_embed.proj.weight"]
    np.testing.assert_allclose(np.abs(projection).max(), (6 / (3 * 64 + 48)) ** 0.5, rtol=0.02)
    assert not ours["patch_embed.proj.bias"].any()
    assert np.abs(ours["cls_token"]).max() < 1e-5


def check_spread(value: np.ndarray, official: dict, name: str) -> None:
    """Spread of a draw; five standard errors, for the recorded draw has one as well."""
    assert sorted(value.shape) == sorted(official["shape"]), name
    error = 5 * (1 / value.size) ** 0.5
    np.testing.assert_allclose(value.std(), official["std"], rtol=error, atol=1e-12, err_msg=name)
    if not official["std"]:
        np.testing.assert_array_equal(np.abs(value), official["absmax"], err_msg=name)


def test_first_weights_of_moco_v3s_resnet_have_the_official_spread():
    module = ResNet(depths=(1, 1, 1, 1), width=4, zero_init_residual=True)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    named = to_torch({kind: {"backbone": tree} for kind, tree in variables.items()})
    ours = {name.removeprefix("backbone."): np.asarray(x) for name, x in named.items()}
    recorded = {
        name.removeprefix("base_encoder."): x
        for name, x in MOCO["init_resnet"].items()
        if not name.startswith(("base_encoder.fc.", "predictor."))
    }
    counters = {name for name in ours if name.endswith("num_batches_tracked")}
    assert ours.keys() - counters == recorded.keys()
    for name, official in recorded.items():
        check_spread(ours[name], official, name)


@pytest.mark.parametrize(
    "run, prefix, layers, width, last_norm",
    [
        ("init_vit", "base_encoder.head", 3, 48, "plain"),
        ("init_vit", "predictor", 2, 24, "plain"),
        ("init_resnet", "base_encoder.fc", 2, 128, "plain"),
        ("init_resnet", "predictor", 2, 24, "none"),
    ],
)
def test_first_weights_of_moco_v3s_heads_have_the_official_spread(
    run, prefix, layers, width, last_norm
):
    head = MlpHead(out_dim=24, hidden_dim=64, layers=layers, last_norm=last_norm)
    params = head.init(jax.random.key(1), jnp.zeros((4, width)))["params"]
    recorded = {
        name.removeprefix(f"{prefix}."): x
        for name, x in MOCO[run].items()
        if name.startswith(f"{prefix}.") and not name.endswith(("running_mean", "running_var"))
    }
    ours = {}
    for index in range(layers):  # linear, norm and ReLU are three modules there
        ours[f"{3 * index}.weight"] = params[f"linear_{index}"]["kernel"]
        norm = params.get(f"norm_{index}", {})
        ours |= {
            f"{3 * index + 1}.{leaf.replace('scale', 'weight')}": x for leaf, x in norm.items()
        }
    assert ours.keys() == recorded.keys()
    for name, official in recorded.items():
        value = np.asarray(ours[name])
        check_spread(value, official, name)
        if value.ndim == 2:  # uniform
            np.testing.assert_allclose(np.abs(value).max(), official["absmax"], rtol=0.02)


def test_sines_of_a_width_that_four_does_not_divide_are_refused():
    config = vit.Config(embed_dim=6, depth=1, num_heads=1, position="rows_first")
    with pytest.raises(ValueError, match=r"embed_dim \(6\) must be a multiple of 4"):
        vit.build(config, jnp.float32)
