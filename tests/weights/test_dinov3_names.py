"""Files with the names of DINOv3: what is read off them, their license, and what is refused."""

import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import dino_jax
from dino_jax.models.convnext import ConvNext
from dino_jax.models.rope import Config as Rope
from dino_jax.models.rope import periods
from dino_jax.weights.dinov3_names import find_rope, from_dinov3, to_dinov3
from dino_jax.weights.exporting import export_weights
from dino_jax.weights.importing import import_weights
from dino_jax.weights.init_from import _import_backbone
from dino_jax.weights.source import open_source
from dino_jax.weights.torch_names import to_torch
from dino_jax.weights.weights_file import read_network
from tests.models.test_vit_v3 import make_vit, random_params
from tests.plain_dinov3 import backbone as plain_backbone


def saved_vit(folder, name="w.safetensors", **changes):
    vit = make_vit(**changes)
    params = random_params(vit)
    tensors = to_torch({"params": {"backbone": params}})
    tensors = {key.removeprefix("backbone."): x for key, x in tensors.items()}
    tensors = to_dinov3(tensors, vit)
    save_file(tensors, folder / name)
    return tensors


KINDS = {
    "mlp": {},
    "swiglu": {"ffn": "swiglu64", "cls_norm": True, "local_cls_norm": True, "mlp_ratio": 3.0},
    "without bias": {"qkv_bias": False},
    "key bias": {"key_bias": True},
    "released": {"rope": Rope(precision="bfloat16_periods")},
    "two periods": {"rope": Rope(min_period=0.5, max_period=8.0)},
}


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_a_file_shows_the_whole_network(tmp_path, changes):
    tensors = saved_vit(tmp_path, **changes)
    read = read_network(tmp_path / "w.safetensors")
    vit, expected = read.network.backbone, make_vit(**changes)
    for name in ("num_heads", "qkv_bias", "cls_norm", "local_cls_norm", "registers", "rope"):
        assert getattr(vit, name) == getattr(expected, name), name
    assert vit.key_bias == (expected.key_bias or not expected.qkv_bias)
    if changes.get("rope", Rope()).precision == "float32" and "rope" not in changes:
        images = np.random.default_rng(0).normal(size=(1, 24, 40, 3)).astype(np.float32)
        features = read.network.apply(read.variables, images)
        model = {"patch": 8, "depth": 2, "heads": 3, "registers": 4}
        named = {f"backbone.{name}": x for name, x in tensors.items()}
        theirs, _ = plain_backbone(named, images.transpose(0, 3, 1, 2), model)
        np.testing.assert_allclose(features["patches"], theirs[:, 5:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_what_goes_out_under_official_names_is_bit_equal(tmp_path, changes):
    tensors = saved_vit(tmp_path, **changes)
    import_weights(tmp_path / "w.safetensors", tmp_path / "in")
    export_weights(str(tmp_path / "in"), str(tmp_path / "out.safetensors"), "official")
    again = load_file(tmp_path / "out.safetensors")
    assert again.keys() == tensors.keys()
    for name, tensor in again.items():
        np.testing.assert_array_equal(tensor, tensors[name], err_msg=name)


def test_a_convnext_comes_in_and_goes_out_with_both_of_its_norms(tmp_path):
    net = ConvNext((1, 1, 2, 1), 8)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
    draws = np.random.default_rng(0)
    params = jax.tree.map(lambda x: draws.normal(0, 0.3, x.shape).astype(np.float32), shapes)
    tensors = to_torch({"params": {"backbone": params}})
    tensors = to_dinov3({key.removeprefix("backbone."): x for key, x in tensors.items()}, net)
    assert tensors["stages.2.1.pwconv1.weight"].shape == (128, 32)
    np.testing.assert_array_equal(tensors["norms.3.weight"], tensors["norm.weight"])
    save_file(tensors, tmp_path / "w.safetensors")
    said = "\n".join(import_weights(tmp_path / "w.safetensors", tmp_path / "in"))
    assert "ConvNeXt, (1, 1, 2, 1) blocks, width 8" in said
    export_weights(str(tmp_path / "in"), str(tmp_path / "out.safetensors"), "official")
    again = load_file(tmp_path / "out.safetensors")
    assert again.keys() == tensors.keys()
    tensors["norms.3.weight"] = tensors["norms.3.weight"] + 1
    save_file(tensors, tmp_path / "two.safetensors")
    with pytest.raises(ValueError, match="are one tensor in DINOv3, and differ here"):
        read_network(tmp_path / "two.safetensors")


@pytest.mark.parametrize("head_dim", [16, 64, 128])
@pytest.mark.parametrize(
    "rope",
    [
        Rope(),
        Rope(base=10_000.0),
        Rope(precision="bfloat16_periods"),
        Rope(min_period=0.5, max_period=8.0),
    ],
)
def test_options_are_found_from_their_periods(rope, head_dim):
    assert find_rope(periods(rope, head_dim)) == rope


def test_other_periods_and_masks_are_refused():
    with pytest.raises(ValueError, match="grow neither from 1"):
        find_rope(np.array([1.0, 2.0, 30.0, 31.0], np.float32))
    with pytest.raises(ValueError, match="two or more positive numbers"):
        find_rope(np.array([1.0, -2.0], np.float32))
    tensors = {
        "cls_token": np.ones((1, 1, 16)),
        "rope_embed.periods": periods(Rope(), 16),
        "blocks.0.attn.qkv.bias_mask": np.full(48, np.nan, np.float32),
    }
    with pytest.raises(ValueError, match="must be 1 but for the keys"):
        from_dinov3(tensors)


def test_attention_heads_that_contradict_the_periods_are_refused(tmp_path):
    saved_vit(tmp_path)
    with pytest.raises(ValueError, match="those of 3 attention heads, not 6"):
        read_network(tmp_path / "w.safetensors", num_heads=6)


def released(folder, dataset="lvd1689m", **changes):
    """A file of random weights with the name of a released one."""
    saved_vit(folder, **changes)
    content = (folder / "w.safetensors").read_bytes()
    digits = hashlib.sha256(content).hexdigest()[:8]
    file = folder / f"dinov3_vits16_pretrain_{dataset}-{digits}.safetensors"
    file.write_bytes(content)
    return file


def test_the_license_of_a_released_file_is_told_and_stays(tmp_path):
    file = released(tmp_path)
    said = "\n".join(import_weights(file, tmp_path / "in"))
    assert "license of the weights: DINOv3 License (released files" in said
    assert "https://ai.meta.com/" in said and "only under it and with its text" in said
    imported = json.loads((tmp_path / "in/config.json").read_text())["imported"]
    assert imported["licence"].startswith("DINOv3 License")
    out = tmp_path / "out.safetensors"
    told = "\n".join(export_weights(str(tmp_path / "in"), str(out), "official"))
    assert "license of the weights: DINOv3 License" in told
    provenance = json.loads((tmp_path / "out.safetensors.provenance.json").read_text())
    assert provenance["license"].startswith("DINOv3 License")
    (tmp_path / "out.safetensors.provenance.json").unlink()
    assert read_network(out).licence.startswith("DINOv3 License")  # from the file itself


def test_a_license_that_would_drop_it_is_refused(tmp_path):
    with pytest.raises(ValueError, match="would drop it: leave --license out"):
        import_weights(released(tmp_path), tmp_path / "in", licence="MIT")
    assert not (tmp_path / "in").exists()


def test_a_file_without_the_hash_in_its_name_is_refused(tmp_path):
    file = released(tmp_path)
    wrong = file.with_name("dinov3_vits16_pretrain_lvd1689m-08c60483.safetensors")
    file.rename(wrong)
    with pytest.raises(ValueError, match="its name says 08c60483: it is damaged or of other"):
        read_network(wrong)


def test_models_for_satellites_have_their_own_mean_and_std(tmp_path):
    assert read_network(released(tmp_path)).config["mean"] == (0.485, 0.456, 0.406)
    read = read_network(released(tmp_path, "sat493m"))
    assert read.config["mean"] == (0.430, 0.411, 0.296)
    assert read.config["std"] == (0.213, 0.156, 0.143)


def test_features_of_an_import_do_not_depend_on_the_way_they_came(tmp_path):
    saved_vit(tmp_path)
    import_weights(tmp_path / "w.safetensors", tmp_path / "in")
    images = np.random.default_rng(0).integers(0, 256, (1, 40, 24, 3), np.uint8)
    for name in ("cls", "patches", "registers"):
        first, second = (dino_jax.load(tmp_path / x) for x in ("w.safetensors", "in"))
        np.testing.assert_array_equal(first(images)[name], second(images)[name])


@pytest.mark.parametrize("source", ["w.safetensors", "in"])
def test_a_run_starts_from_them_and_is_told_of_other_angles(tmp_path, source):
    saved_vit(tmp_path, rope=Rope(precision="bfloat16_periods"))
    import_weights(tmp_path / "w.safetensors", tmp_path / "in")
    vit = make_vit(rope=Rope(rescale=2.0))
    params = random_params(vit)
    like = jax.eval_shape(lambda: {"params": {"backbone": params}})
    opened = open_source(str(tmp_path / source), None, like)
    variables, lines = _import_backbone(opened, like, vit, "")
    jax.tree.map(np.testing.assert_array_equal, variables["params"]["backbone"], params)
    assert "backbone: imported" in lines[0]
    assert len(lines) == 2 and "note: rope is" in lines[1] and "bfloat16_periods" in lines[1]
