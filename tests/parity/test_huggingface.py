"""Random models of transformers come in with the same features and go out with the same bits."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import dino_jax
from dino_jax.weights.exporting import export_weights
from dino_jax.weights.importing import import_weights
from dino_jax.weights.weights_file import read_network

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
FAMILIES = {
    "ViTModel": dict(patch_size=8, image_size=48),
    "Dinov2Model": dict(patch_size=14, image_size=56),
    "Dinov2Model with SwiGLU": dict(patch_size=14, image_size=56, use_swiglu_ffn=True),
    "Dinov2WithRegistersModel": dict(patch_size=14, image_size=56, num_register_tokens=3),
}
# Height and width in patches: native (6 or 4), smaller, larger, the same number in another shape.
SIZES = ["native", (3, 3), (7, 7), (4, 6), (2, 8)]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """A model of transformers with all its tensors random, and folders with its files."""
    folder, name = tmp_path_factory.mktemp("family"), request.param.partition(" ")[0]
    torch.manual_seed(0)
    sizes = dict(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512)
    config = getattr(transformers, name.replace("Model", "Config"))(
        **sizes, **FAMILIES[request.param]
    )
    model = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for tensor in model.parameters():  # biases, LayerScale and registers are constants at first
            tensor.add_(0.05 * torch.randn_like(tensor))
    model.save_pretrained(folder / "saved")
    torch.save(model.state_dict(), folder / "in_memory.pth")
    files = load_file(folder / "saved" / "model.safetensors")
    (folder / "old").mkdir()
    torch.save({k: torch.tensor(x) for k, x in files.items()}, folder / "old/pytorch_model.bin")
    return folder, model


def pixels(model, size):
    config = model.config
    rows, columns = [config.image_size // config.patch_size] * 2 if size == "native" else size
    shape = (2, rows * config.patch_size, columns * config.patch_size, 3)
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


def features_of_transformers(model, images):
    """[B, T, D]: cls, registers, patches."""
    normalised = torch.tensor((images / 255 - MEAN) / STD, dtype=torch.float32).permute(0, 3, 1, 2)
    options = {"interpolate_pos_encoding": True} if model.config.model_type == "vit" else {}
    with torch.no_grad():
        return model(normalised, **options).last_hidden_state.numpy()


def features_of_ours(model, images):
    features = {name: np.asarray(x) for name, x in model(images).items()}
    registers = [features["registers"]] if "registers" in features else []
    return np.concatenate([features["cls"][:, None], *registers, features["patches"]], axis=1)


def test_features_at_every_size_are_those_of_transformers(family, tmp_path):
    folder, theirs = family
    said = "\n".join(import_weights(folder / "saved/model.safetensors", tmp_path / "imported"))
    assert f"Hugging Face {type(theirs).__name__} names" in said and "64 channels" not in said
    ours = dino_jax.load(tmp_path / "imported")
    for size in SIZES:
        images = pixels(theirs, size)
        expected = features_of_transformers(theirs, images)
        np.testing.assert_allclose(
            features_of_ours(ours, images), expected, rtol=0, atol=1e-4, err_msg=str(size)
        )


def test_every_file_of_a_model_gives_the_same_tensors(family, tmp_path):
    folder, _ = family
    first = read_network(folder / "saved/model.safetensors")
    for file in ("in_memory.pth", "old/pytorch_model.bin"):
        again = read_network(folder / file)
        assert "(assumed: 64 channels each)" in "\n".join(again.lines)  # no config.json beside it
        assert again.config == first.config
        for mine, other in zip(
            *map(jax.tree.leaves, (again.variables, first.variables)), strict=True
        ):
            np.testing.assert_array_equal(mine, other)


def test_what_is_exported_again_is_bit_equal_and_transformers_read_it(family, tmp_path):
    folder, theirs = family
    import_weights(folder / "saved/model.safetensors", tmp_path / "imported")
    said = export_weights(str(tmp_path / "imported"), str(tmp_path / "out"), "huggingface")
    assert not any("note:" in line for line in said)
    saved = load_file(folder / "saved/model.safetensors")
    again = load_file(tmp_path / "out/model.safetensors")
    # Features do not go through the pooler: it is left out, and the import says so.
    assert saved.keys() - again.keys() == {name for name in saved if name.startswith("pooler.")}
    assert again.keys() <= saved.keys()
    for name, tensor in again.items():
        assert tensor.dtype == saved[name].dtype
        np.testing.assert_array_equal(tensor, saved[name], err_msg=name)
    read, report = type(theirs).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["unexpected_keys"] and not report["mismatched_keys"]
    assert all(name.startswith("pooler.") for name in report["missing_keys"])
    images = pixels(theirs, (4, 6))
    expected = features_of_transformers(theirs, images)
    np.testing.assert_array_equal(features_of_transformers(read.eval(), images), expected)
    config, original = [
        json.loads((place / "config.json").read_text())
        for place in (tmp_path / "out", folder / "saved")
    ]
    assert {name: original.get(name) for name in config} == config


def test_a_pth_is_what_torch_loads(family, tmp_path):
    model = str(family[0] / "saved/model.safetensors")
    for suffix in (".pth", ".safetensors"):
        export_weights(model, str(tmp_path / f"official{suffix}"), "official")
    read = torch.load(tmp_path / "official.pth", weights_only=True)
    wanted = load_file(tmp_path / "official.safetensors")
    assert read.keys() == wanted.keys() and "blocks.1.attn.qkv.weight" in wanted
    for name, tensor in wanted.items():
        np.testing.assert_array_equal(read[name].numpy(), tensor, err_msg=name)


def test_a_classifier_around_the_model_is_left_out_and_said(tmp_path):
    config = transformers.Dinov2Config(
        hidden_size=64, num_hidden_layers=1, num_attention_heads=4, image_size=28, patch_size=14
    )
    torch.manual_seed(0)
    model = transformers.Dinov2ForImageClassification(config).eval()
    model.save_pretrained(tmp_path / "saved")
    said = "\n".join(import_weights(tmp_path / "saved/model.safetensors", tmp_path / "imported"))
    assert "left out: classifier.bias, classifier.weight" in said
    assert "4 attention heads\n" in said
    images = pixels(model, (3, 2))
    expected = features_of_transformers(model.dinov2, images)
    ours = features_of_ours(dino_jax.load(tmp_path / "imported"), images)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)
