"""Random DINOv3 models of transformers and timm come in with the same features and go out again."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import dino_jax
from dino_jax.weights.exporting import export_weights
from dino_jax.weights.importing import import_weights

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
VIT = dict(
    **dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2),
    **dict(patch_size=8, image_size=48, num_register_tokens=4),
)
GATED = dict(use_gated_mlp=True, hidden_act="silu", intermediate_size=192)
FAMILIES = {
    "DINOv3ViTModel": VIT,
    "DINOv3ViTModel with gates": VIT | GATED | dict(query_bias=False, value_bias=False),
    "DINOv3ViTModel of another base": VIT | dict(rope_theta=50.0, key_bias=True),
    "DINOv3ConvNextModel": dict(hidden_sizes=[8, 16, 32, 64], depths=[1, 2, 1, 1]),
}
SIZES = [(48, 48), (32, 32), (96, 96), (64, 96), (37, 75)]  # the last one has parts of patches


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """A model of transformers with all its tensors random, and the folder of its file."""
    folder, name = tmp_path_factory.mktemp("family"), request.param.partition(" ")[0]
    torch.manual_seed(0)
    config = getattr(transformers, name.replace("Model", "Config"))(**FAMILIES[request.param])
    model = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.05 * torch.randn_like(tensor))
    model.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "in_memory.pth")
    return folder, model


def tokens(model, images):
    features = {name: np.asarray(x) for name, x in model(images).items()}
    registers = [features["registers"]] if "registers" in features else []
    return np.concatenate([features["cls"][:, None], *registers, features["patches"]], axis=1)


def tokens_of_transformers(model, images):
    normalized = torch.tensor((images / 255 - MEAN) / STD, dtype=torch.float32).permute(0, 3, 1, 2)
    with torch.no_grad():
        return model(normalized).last_hidden_state.numpy()


@pytest.mark.parametrize("file", ["model.safetensors", "in_memory.pth"])
def test_features_at_every_size_are_those_of_transformers(family, file, tmp_path):
    folder, theirs = family
    said = "\n".join(import_weights(folder / file, tmp_path / "imported"))
    assert f"Hugging Face {type(theirs).__name__} names" in said
    ours, draws = dino_jax.load(tmp_path / "imported"), np.random.default_rng(1)
    for size in SIZES:
        images = draws.integers(0, 256, (2, *size, 3), np.uint8)
        expected = tokens_of_transformers(theirs, images)
        np.testing.assert_allclose(
            tokens(ours, images), expected, rtol=0, atol=1e-4, err_msg=str(size)
        )


def test_what_is_exported_again_is_bit_equal_and_transformers_read_it(family, tmp_path):
    folder, theirs = family
    import_weights(folder / "model.safetensors", tmp_path / "imported")
    said = export_weights(str(tmp_path / "imported"), str(tmp_path / "out"), "huggingface")
    assert not any("note:" in line for line in said)
    saved = load_file(folder / "model.safetensors")
    again = load_file(tmp_path / "out/model.safetensors")
    assert again.keys() == saved.keys()
    for name, tensor in again.items():
        assert tensor.dtype == saved[name].dtype
        np.testing.assert_array_equal(tensor, saved[name], err_msg=name)
    read, report = type(theirs).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    images = np.random.default_rng(2).integers(0, 256, (1, 64, 96, 3), np.uint8)
    np.testing.assert_array_equal(
        tokens_of_transformers(read.eval(), images), tokens_of_transformers(theirs, images)
    )


def test_through_the_official_names_and_back_nothing_changes(family, tmp_path):
    folder, _ = family
    import_weights(folder / "model.safetensors", tmp_path / "imported")
    official = tmp_path / "official.safetensors"
    export_weights(str(tmp_path / "imported"), str(official), "official")
    export_weights(str(official), str(tmp_path / "out"), "huggingface")
    saved, again = (
        load_file(x) for x in (folder / "model.safetensors", tmp_path / "out/model.safetensors")
    )
    assert again.keys() == saved.keys()
    for name, tensor in again.items():
        np.testing.assert_array_equal(tensor, saved[name], err_msg=name)
    export_weights(str(tmp_path / "imported"), str(tmp_path / "again.safetensors"), "official")
    first, second = (load_file(x) for x in (official, tmp_path / "again.safetensors"))
    jax.tree.map(np.testing.assert_array_equal, first, second)


TIMM = {
    "vit_small_patch16_dinov3": dict(depth=2, embed_dim=64, num_heads=1),
    "vit_small_patch16_dinov3_qkvb": dict(depth=2, embed_dim=64, num_heads=1),
    "vit_small_plus_patch16_dinov3": dict(depth=2, embed_dim=64, num_heads=1),
    "convnext_tiny": dict(depths=(1, 1, 1, 1), dims=(8, 16, 32, 64)),
}


@pytest.mark.parametrize("name", TIMM)
def test_models_of_timm_come_in_and_go_out(name, tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0, **TIMM[name]).eval()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.05 * torch.randn_like(tensor))
    saved = {key: x.numpy().copy() for key, x in model.state_dict().items()}
    save_file(saved, tmp_path / "timm.safetensors")
    ours = dino_jax.load(tmp_path / "timm.safetensors")
    images = np.random.default_rng(1).integers(0, 256, (2, 256, 256, 3), np.uint8)
    normalized = torch.tensor((images / 255 - MEAN) / STD, dtype=torch.float32).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(normalized)).numpy()
    features = ours(images)
    mine = features["patches"].mean(1) if name.startswith("vit") else features["cls"]
    if name.startswith("vit"):
        with torch.no_grad():
            expected = model.forward_features(normalized)[:, 0].numpy()
        mine = features["cls"]
    np.testing.assert_allclose(np.asarray(mine), expected, rtol=0, atol=1e-4)
    export_weights(str(tmp_path / "timm.safetensors"), str(tmp_path / "out.safetensors"), "timm")
    again = load_file(tmp_path / "out.safetensors")
    assert again.keys() == saved.keys()
    for key, tensor in again.items():
        np.testing.assert_array_equal(tensor, saved[key], err_msg=key)
