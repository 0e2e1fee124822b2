"""Random CLIP and SigLIP of transformers give the same features here, at every size."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import dino_jax
from dino_jax.weights.importing import import_weights
from dino_jax.weights.weights_file import read_network

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOWER = dict(hidden_size=64, intermediate_size=172, num_hidden_layers=3, num_attention_heads=4)
TEXT = dict(vocab_size=120, max_position_embeddings=20, bos_token_id=118, pad_token_id=1)
IMAGE = dict(image_size=48, patch_size=8)
ACTIVATIONS = {"CLIP": ["quick_gelu", "gelu"], "Siglip": ["gelu_pytorch_tanh"]}
CASES = [(name, act) for name, acts in ACTIVATIONS.items() for act in acts]
PIXELS = {
    "size": {"height": 48, "width": 48},
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.3, 0.25],
}
SIZES = [(48, 48), (80, 80), (32, 64), (72, 40)]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def family(request, tmp_path_factory):
    """A model with all its tensors random, and the folder that it is saved in, as shards."""
    name, activation = request.param
    folder = tmp_path_factory.mktemp("family")
    torch.manual_seed(0)
    end = {"quick_gelu": 119, "gelu": 2}.get(activation, 1)
    config = getattr(transformers, f"{name}Config")(
        text_config={
            **TOWER,
            **TEXT,
            "hidden_act": activation,
            "eos_token_id": end,
            "projection_dim": 40,
            "projection_size": 64,
        },
        vision_config={**TOWER, **IMAGE, "hidden_act": activation, "projection_dim": 40},
        **({"projection_dim": 40} if name == "CLIP" else {}),
    )
    model = getattr(transformers, f"{name}Model")(config).eval()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.05 * torch.randn_like(tensor))
    model.save_pretrained(folder, max_shard_size="200KB")
    (folder / "preprocessor_config.json").write_text(json.dumps(PIXELS))
    return folder, model


def features(found):
    """The projected features, which some versions wrap."""
    return (found if torch.is_tensor(found) else found.pooler_output).numpy()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_images_of_every_size(family, tmp_path, size):
    folder, theirs = family
    index = folder / "model.safetensors.index.json"
    import_weights(index, tmp_path / "imported")
    ours = dino_jax.load(tmp_path / "imported")
    images = np.random.default_rng(1).integers(0, 256, (2, *size, 3), np.uint8)
    plain = (images / 255 - np.array(PIXELS["image_mean"])) / np.array(PIXELS["image_std"])
    pixels = torch.tensor(plain, dtype=torch.float32).permute(0, 3, 1, 2)
    with torch.no_grad():
        found = theirs.get_image_features(pixels, interpolate_pos_encoding=True)
    cls = np.asarray(ours(images)["cls"])
    np.testing.assert_allclose(cls, features(found), rtol=0, atol=1e-4)


def test_texts(family):
    folder, theirs = family
    text = read_network(folder / "model.safetensors.index.json").text
    ids = np.random.default_rng(2).integers(3, 118, (5, 20))
    for row, length in enumerate((2, 5, 11, 19, 20)):
        ids[row, length - 1] = 119
        ids[row, length:] = 1
    with torch.no_grad():
        expected = features(theirs.get_text_features(torch.tensor(ids)))
    found = text.tower.apply(text.variables, jnp.asarray(ids))
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=1e-4)
