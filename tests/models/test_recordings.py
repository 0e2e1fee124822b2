"""All recorded outputs of the official ViTs, through the import of their state dicts.

tests/golden keeps a part of the recordings; the whole ones lie beside the repository where it is
developed, and without them these tests are skipped.
"""

from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from dino_jax.weights.importing import import_weights
from dino_jax.weights.model import load
from tests import plain_dinov3

RECORDINGS = Path(__file__).parents[2].parent / "shared" / "golden"
TOKENS = {"cls": "clstoken", "registers": "regtokens", "patches": "patchtokens"}
DINOV2 = sorted(path.stem for path in RECORDINGS.glob("v2/a_vit_*.npz"))
TOLERANCE = 2e-5

pytestmark = pytest.mark.skipif(not DINOV2, reason=f"no recordings in {RECORDINGS}")


def imported(recording, folder):
    """The model that an import of the recorded state dict gives."""
    tensors = {n[3:]: recording[n] for n in recording.files if n.startswith("sd/")}
    save_file(tensors, folder / "w.safetensors")
    import_weights(folder / "w.safetensors", folder / "imported", num_heads=3)
    return load(folder / "imported")


def images_of(arrays, name):
    return np.transpose(arrays[name], (0, 2, 3, 1))


def assert_close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", DINOV2)
def test_every_output_of_dinov2_at_every_size_with_and_without_masks(tmp_path, name):
    recording = np.load(RECORDINGS / f"v2/{name}.npz")
    inputs = np.load(RECORDINGS / "v2/a_inputs.npz")
    model = imported(recording, tmp_path)
    apply = partial(jax.jit(model.network.apply), model.variables)
    checked = 0
    for size in (name[2:] for name in inputs.files if name.startswith("x/")):
        for kind, masks in (("nomask", None), ("mask", inputs[f"mask/{size}"])):
            features = apply(images_of(inputs, f"x/{size}"), masks)
            for ours, value in features.items():
                assert_close(value, recording[f"out/{size}/{kind}/x_norm_{TOKENS[ours]}"])
                checked += 1
    assert checked == sum("/x_norm_" in name for name in recording.files)
    for index, features in enumerate(
        model.intermediate(images_of(inputs, "x/42x42"), layers=(0, 1, 2))
    ):
        assert_close(features["cls"], recording[f"il/42x42/{index}/cls"])
        assert_close(features["patches"], recording[f"il/42x42/{index}/patch"])


def test_every_output_of_dino_at_every_size(tmp_path):
    recording = np.load(RECORDINGS / "v1/vit_tiny48.npz")
    model = imported(recording, tmp_path)
    for case in (name[:-2] for name in recording.files if name.endswith("/x")):
        images = images_of(recording, f"{case}/x")
        assert_close(model(images)["cls"], recording[f"{case}/cls"])
        assert_close(model.attention(images), recording[f"{case}/last_attn"])
        for index, features in enumerate(model.intermediate(images, layers=(0, 1, 2))):
            tokens = np.concatenate([features["cls"][:, None], features["patches"]], axis=1)
            assert_close(tokens, recording[f"{case}/inter_{index}"])


V3 = RECORDINGS / "v3/f_v3_vit_mlp_reg4.npz"
V3_TOKENS = {"cls": "norm_clstoken", "registers": "storage_tokens", "patches": "norm_patchtokens"}


@pytest.mark.skipif(not V3.exists(), reason=f"no recordings in {RECORDINGS / 'v3'}")
def test_every_output_of_dinov3_at_every_size_with_and_without_masks(tmp_path):
    recording, inputs = np.load(V3), np.load(RECORDINGS / "v3/f_v3_inputs_rope.npz")
    tensors = {n[3:]: recording[n] for n in recording.files if n.startswith("sd/")}
    save_file(tensors, tmp_path / "w.safetensors")
    model, checked = load(tmp_path / "w.safetensors"), 0
    for size in ("64x64", "48x80", "50x90"):
        for kind in ("nomask", "mask") if size == "64x64" else ("nomask",):
            masks = inputs[f"mask/{size}"] if kind == "mask" else None
            images = images_of(inputs, f"x/{size}")
            features = model.network.apply(model.variables, images, masks)
            for ours, theirs in V3_TOKENS.items():
                expected = recording[f"out/{size}/{kind}/x_{theirs}"]
                np.testing.assert_allclose(features[ours], expected, rtol=0, atol=1e-5)
                checked += 1
    assert checked == sum("/x_" in n and "prenorm" not in n for n in recording.files)


@pytest.mark.skipif(not V3.exists(), reason=f"no recordings in {RECORDINGS / 'v3'}")
@pytest.mark.parametrize("size", ["64x64", "48x80", "50x90"])
def test_the_second_implementation_of_dinov3_equals_the_official_one(size):
    recording, inputs = np.load(V3), np.load(RECORDINGS / "v3/f_v3_inputs_rope.npz")
    params = {f"backbone.{n[3:]}": recording[n] for n in recording.files if n.startswith("sd/")}
    model = {"patch": 16, "depth": 2, "heads": 3, "registers": 4}
    kinds = {name.split("/")[2] for name in recording.files if name.startswith(f"out/{size}/")}
    for kind in kinds:
        masks = inputs[f"mask/{size}"] if kind == "mask" else None
        tokens, raw = plain_dinov3.backbone(params, inputs[f"x/{size}"], model, masks=masks)
        outputs = {"norm_clstoken": tokens[:, 0], "storage_tokens": tokens[:, 1:5]}
        outputs |= {"norm_patchtokens": tokens[:, 5:]} | ({"prenorm": raw} if masks is None else {})
        for name, ours in outputs.items():
            theirs = recording[f"out/{size}/{kind}/x_{name}"]
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
