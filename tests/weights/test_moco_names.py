"""Official checkpoints of MoCo v3."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from dino_jax.weights.importing import import_weights
from dino_jax.weights.model import load
from dino_jax.weights.weights_file import read_network
from tests.plain_mae import encode
from tests.weights.test_mae_names import DIM, PATCH, official

IMAGES = np.random.default_rng(2).normal(size=(2, 48, 48, 3)).astype(np.float32)


def encoder(seed: int) -> dict[str, np.ndarray]:
    own = ("decoder", "mask_token")
    return {name: x for name, x in official(seed).items() if not name.startswith(own)}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Both encoders with their projectors, and a predictor, under the names of its training."""
    file = tmp_path_factory.mktemp("moco") / "checkpoint.safetensors"
    head = {
        "head.0.weight": np.ones((8, DIM), np.float32),
        "head.1.running_mean": np.zeros(8, np.float32),
    }
    tensors = {
        **{f"state_dict.module.base_encoder.{k}": x for k, x in (encoder(0) | head).items()},
        **{f"state_dict.module.momentum_encoder.{k}": x for k, x in (encoder(1) | head).items()},
        "state_dict.module.predictor.0.weight": np.ones((8, 8), np.float32),
    }
    save_file(tensors, file)
    return file


def features(tensors: dict[str, np.ndarray]) -> np.ndarray:
    order = np.tile(np.arange(36), (2, 1))
    pixels = IMAGES.transpose(0, 3, 1, 2)
    return encode(tensors, pixels, order, 36, patch=PATCH, depth=2, heads=3)[:, 0]


def test_the_base_encoder_comes_in_and_the_rest_is_named(checkpoint, tmp_path):
    said = "\n".join(import_weights(checkpoint, tmp_path / "imported", num_heads=3))
    for words in ("1 tensors of the predictor", "the teacher", "head.0.weight"):
        assert words in said
    model = load(tmp_path / "imported")
    ours = jax.jit(model.network.apply)(model.variables, IMAGES)
    np.testing.assert_allclose(ours["cls"], features(encoder(0)), rtol=0, atol=2e-5)


def test_the_momentum_encoder_comes_in_on_request(checkpoint):
    read = read_network(checkpoint, "teacher", num_heads=3)
    ours = jax.jit(read.network.apply)(read.variables, IMAGES)
    np.testing.assert_allclose(ours["cls"], features(encoder(1)), rtol=0, atol=2e-5)


def test_files_are_called_as_its_training_calls_them(checkpoint):
    with pytest.raises(FileNotFoundError, match=r"checkpoint_0299\.pth\.tar does not exist"):
        load(checkpoint.parent / "checkpoint_0299.pth.tar")
