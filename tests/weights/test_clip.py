"""CLIP and SigLIP against recordings of transformers, under either names, and their import."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import dino_jax
from dino_jax.weights.export_weights import main as export
from dino_jax.weights.import_weights import main
from dino_jax.weights.text_model import has_text, load_text
from dino_jax.weights.weights_file import read_network
from tests.weights.clip_files import NAMES, read_recording, to_openclip, write_folder

TOLERANCE = 2e-5


def close(found, expected):
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=TOLERANCE)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def nhwc(pixels):
    return jnp.asarray(pixels.transpose(0, 2, 3, 1))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    return {name: write_folder(folder / name, name) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_the_towers_give_what_was_recorded(files, name):
    recorded, _, _ = read_recording(name)
    read = read_network(files[name])
    assert read.text is not None
    tower, texts = read.text.tower, read.text.variables
    ids = jnp.asarray(recorded["input_ids"])
    images = read.network.apply(read.variables, nhwc(recorded["pixel_values"]))["cls"]
    close(images, recorded["image_features_unnormalised"])
    close(unit(np.asarray(images)), recorded["image_embeds"])
    features = tower.apply(texts, ids)
    close(features, recorded["text_features_unnormalised"])
    close(unit(np.asarray(features)), recorded["text_embeds"])
    close(tower.apply(texts, ids, method="tokens"), recorded["text_last_hidden_state"])
    logits = tower.apply(texts, features, images, method="logits")
    close(logits, recorded["logits_per_image"].T)


@pytest.mark.parametrize("name", NAMES)
def test_hidden_states_of_both_sizes_are_as_recorded(files, name):
    recorded, _, _ = read_recording(name)
    read = read_network(files[name])
    backbone = read.network.bind(read.variables).backbone
    norm = read.variables["params"]["backbone"]["norm"]
    for ending in ("", "_other_size"):
        pixels = nhwc(recorded[f"pixel_values{ending}"])
        expected = recorded[f"vision_last_hidden_state{ending}"]
        if name == "siglip":
            close(backbone(pixels)["patches"], expected)
        else:
            close(backbone.tokens(pixels), expected)
    expected = recorded["vision_pooler_other_size"]
    if name == "siglip":
        close(backbone(pixels)["cls"], expected)
    else:  # the class token after its norm, not projected
        x = np.asarray(backbone.tokens(pixels))[:, 0]
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        close(x * norm["scale"] + norm["bias"], expected)


def test_what_follows_the_end_of_a_text_changes_nothing(files):
    text = read_network(files["clip"]).text
    ids = read_recording("clip")[0]["input_ids"].copy()
    ids[0, 3:] = [5, 9, 39, 7, 1, 0, 2]  # the first text ends at 2
    close(
        text.tower.apply(text.variables, jnp.asarray(ids))[0],
        text.tower.apply(text.variables, jnp.asarray(read_recording("clip")[0]["input_ids"]))[0],
    )


OPEN_CONFIG = {
    "model_cfg": {
        "embed_dim": 12,
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": 16,
            "layers": 2,
            "width": 16,
            "patch_size": 4,
            "head_width": 8,
        },
        "text_cfg": {
            "context_length": 10,
            "vocab_size": 40,
            "width": 16,
            "heads": 2,
            "layers": 2,
        },
    },
    "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"},
}


@pytest.mark.parametrize("prefix", ["", "text."])
def test_openclips_names_give_the_same_features(tmp_path, prefix):
    recorded, weights, _ = read_recording("clip")
    renamed = {
        name if name.startswith(("visual.", "logit")) else prefix + name: value
        for name, value in to_openclip(weights).items()
    }
    save_file(renamed, tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps(OPEN_CONFIG))
    read = read_network(tmp_path / "open_clip_model.safetensors")
    assert read.view.fit == "squeeze" and read.network.mean == (0.5, 0.5, 0.5)
    images = read.network.apply(read.variables, nhwc(recorded["pixel_values"]))["cls"]
    close(images, recorded["image_features_unnormalised"])
    features = read.text.tower.apply(read.text.variables, jnp.asarray(recorded["input_ids"]))
    close(features, recorded["text_features_unnormalised"])


def split(file):
    """The same weights as two shards with an index."""
    _, weights, _ = read_recording("clip")
    names = sorted(weights)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, part in shards.items():
        save_file({name: weights[name] for name in part}, file.parent / shard)
    places = {name: shard for shard, part in shards.items() for name in part}
    index = file.parent / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index, places


def test_shards_are_read_as_one_file(tmp_path):
    file = write_folder(tmp_path, "clip")
    index, _ = split(file)
    one, other = read_network(file), read_network(index)
    np.testing.assert_array_equal(
        other.variables["params"]["backbone"]["pos_embed"],
        one.variables["params"]["backbone"]["pos_embed"],
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda places: {**places, "x": "../a.safetensors"}, "no .safetensors beside it"),
        (lambda places: {**places, "x": "a.safetensors"}, r"differ in 1 tensors like \['x'\]"),
        (lambda places: {}, "no weight_map"),
    ],
)
def test_a_wrong_index_is_refused(tmp_path, change, message):
    index, places = split(write_folder(tmp_path, "clip"))
    index.write_text(json.dumps({"weight_map": change(places)}))
    with pytest.raises(ValueError, match=message):
        read_network(index)


def test_a_missing_shard_is_named(tmp_path):
    index, _ = split(write_folder(tmp_path, "clip"))
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"b\.safetensors is missing"):
        read_network(index)


def spoil(folder, name, **changes):
    content = json.loads((folder / name).read_text()) | changes
    (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"model_type": "bert"}, "model_type is 'bert'"),
        ("config.json", {"vision_config": {"hidden_act": "relu"}}, "hidden_act is 'relu'"),
        ("config.json", {"text_config": {"num_attention_heads": 3}}, "must be a multiple of"),
        ("config.json", {"text_config": {"eos_token_id": "2"}}, "eos_token_id is '2'"),
        ("preprocessor_config.json", {"resample": 0}, "resample is 0"),
        ("preprocessor_config.json", {"do_normalize": False}, "do_normalize is False"),
        ("preprocessor_config.json", {"rescale_factor": 1}, "rescale_factor is 1"),
        ("preprocessor_config.json", {"image_mean": [1]}, "three numbers"),
        ("preprocessor_config.json", {"crop_size": {"height": 3, "width": 4}}, "of a square"),
    ],
)
def test_what_is_not_known_beside_the_weights_is_refused(tmp_path, file, changes, message):
    weights = write_folder(tmp_path, "clip")
    spoil(tmp_path, file, **changes)
    with pytest.raises(ValueError, match=message):
        read_network(weights)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_nothing_is_assumed_where_a_file_is_missing(tmp_path, name):
    weights = write_folder(tmp_path, "clip")
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is needed"):
        read_network(weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.pop("visual_projection.weight"), "visual_projection.weight is missing"),
        (lambda x: x.pop("text_model.final_layer_norm.bias"), "missing text_model.final_l"),
        (lambda x: x.update(odd=np.zeros(3, np.float32)), "unused odd"),
        (
            lambda x: x.update({"vision_model.pre_layrnorm.bias": np.zeros(3, np.float32)}),
            "shape of vision_model.pre_layrnorm.bias",
        ),
        (lambda x: x.update({"visual.trunk.a": np.zeros(1, np.float32)}), "timm's names"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, change, message):
    file = write_folder(tmp_path, "clip")
    _, weights, _ = read_recording("clip")
    change(weights)
    save_file(weights, file)
    if "timm" in message:
        (tmp_path / "open_clip_config.json").write_text(json.dumps(OPEN_CONFIG))
    with pytest.raises(ValueError, match=message):
        read_network(file)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_an_import_is_loaded_with_its_view_and_its_texts(files, tmp_path, name, capsys):
    out = tmp_path / "out"
    assert main([str(files[name]), f"--out={out}"]) == 0
    said = capsys.readouterr().out
    assert "license of the weights: mit" in said and "tokenizer.json, copied" in said
    model, from_file = dino_jax.load(out), dino_jax.load(files[name])
    pixels = np.random.default_rng(0).integers(0, 256, (40, 20, 3), np.uint8)
    box = (16, 16) if name == "siglip" else (16, 32)
    resized = Image.fromarray(pixels).resize(box, Image.Resampling.BICUBIC)
    seen = np.asarray(resized)[8:24] if name == "clip" else np.asarray(resized)
    np.testing.assert_array_equal(model.preprocess([pixels])[0], seen)
    np.testing.assert_array_equal(model([pixels])["cls"], from_file([pixels])["cls"])
    assert has_text(out) and has_text(files[name])
    texts = ["a red chair", "a photo of the teak table"]
    vectors = load_text(out)(texts)
    np.testing.assert_array_equal(load_text(files[name])(texts), vectors)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert (vectors[0] @ vectors[1]) < 0.999


def test_a_model_without_texts_says_so(files, tmp_path):
    out = tmp_path / "out"
    main([str(files["clip"]), f"--out={out}"])
    (out / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json"):
        load_text(out)
    config = json.loads((out / "config.json").read_text())
    del config["text"]
    (out / "config.json").write_text(json.dumps(config))
    assert not has_text(out)
    with pytest.raises(ValueError, match="reads no texts"):
        load_text(out)


def test_number_of_heads_is_no_choice(files):
    with pytest.raises(ValueError, match="--num-heads is not for CLIP"):
        read_network(files["clip"], num_heads=4)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_an_export_is_a_program_and_no_other_code_bases_weights(files, tmp_path, name, capsys):
    out = tmp_path / "out.stablehlo"
    assert export([str(files[name]), f"--out={out}", "--format=stablehlo"]) == 0
    assert "features differ by" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        export([str(files[name]), f"--out={tmp_path / 'out.safetensors'}", "--names=official"])
    assert "--format=stablehlo makes a program of it" in capsys.readouterr().err
