"""Official checkpoints of MoCo v3."""

import itertools
from functools import partial

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from dino_jax.config.section import section
from dino_jax.models.build import NetworkConfig, build_network
from dino_jax.weights.importing import import_weights
from dino_jax.weights.model import load
from dino_jax.weights.torch_names import to_torch
from dino_jax.weights.weights_file import read_network
from tests.plain_mae import encode
from tests.weights.test_mae_names import DIM, PATCH, official

IMAGES = np.random.default_rng(2).normal(size=(2, 48, 48, 3)).astype(np.float32)


def encoder(seed: int) -> dict[str, np.ndarray]:
    own = ("decoder", "mask_token")
    return {name: x for name, x in official(seed).items() if not name.startswith(own)}


def head(prefix: str, sizes: tuple[int, ...], seed: int, last_norm: bool = True):
    """Linear layers of these sizes with BatchNorms and ReLUs; the last BatchNorm learns nothing."""
    rng, tensors = np.random.default_rng(seed), {}
    last = len(sizes) - 2
    for i, (before, after) in enumerate(itertools.pairwise(sizes)):
        tensors[f"{prefix}.{3 * i}.weight"] = 0.3 * rng.normal(size=(after, before))
        if i < last:
            tensors[f"{prefix}.{3 * i + 1}.weight"] = 1 + 0.3 * rng.normal(size=after)
            tensors[f"{prefix}.{3 * i + 1}.bias"] = 0.3 * rng.normal(size=after)
        if i < last or last_norm:
            tensors[f"{prefix}.{3 * i + 1}.running_mean"] = 0.3 * rng.normal(size=after)
            tensors[f"{prefix}.{3 * i + 1}.running_var"] = rng.uniform(0.5, 2, size=after)
            tensors[f"{prefix}.{3 * i + 1}.num_batches_tracked"] = np.array(7)
    return {name: np.asarray(x, np.float32) for name, x in tensors.items()}


def run_head(tensors, prefix: str, x: np.ndarray) -> np.ndarray:
    """The same in NumPy, with the running statistics."""
    own = {
        name.removeprefix(f"{prefix}."): x for name, x in tensors.items() if name.startswith(prefix)
    }
    indices = sorted({int(name.split(".")[0]) for name in own})
    for index in indices:
        part = {
            name.split(".")[1]: value for name, value in own.items() if name.startswith(f"{index}.")
        }
        if "running_mean" in part:
            x = (x - part["running_mean"]) / np.sqrt(part["running_var"] + 1e-5)
            x = x * part.get("weight", 1) + part.get("bias", 0)
            x = np.maximum(x, 0) if index < indices[-1] else x
        else:
            x = x @ part["weight"].T
    return x


PREDICTOR = head("predictor", (8, 20, 8), 5)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Both encoders with their projectors, and a predictor, under the names of its training."""
    file = tmp_path_factory.mktemp("moco") / "checkpoint.safetensors"
    networks = {
        f"state_dict.module.{role}_encoder.{name}": x
        for seed, role in enumerate(("base", "momentum"))
        for name, x in (encoder(seed) | head("head", (DIM, 16, 16, 8), seed)).items()
    }
    predictor = {f"state_dict.module.{name}": x for name, x in PREDICTOR.items()}
    save_file(networks | predictor, file)
    return file


def features(tensors: dict[str, np.ndarray]) -> np.ndarray:
    order = np.tile(np.arange(36), (2, 1))
    pixels = IMAGES.transpose(0, 3, 1, 2)
    return encode(tensors, pixels, order, 36, patch=PATCH, depth=2, heads=3)[:, 0]


def test_the_base_encoder_comes_in_with_its_heads(checkpoint, tmp_path):
    said = "\n".join(import_weights(checkpoint, tmp_path / "imported", num_heads=3))
    for words in (
        "head projector: MLP of cls, 3 layers",
        "head predictor: MLP of proj",
        "the teacher",
    ):
        assert words in said
    model = load(tmp_path / "imported")
    ours = jax.jit(model.network.apply)(model.variables, IMAGES)
    wanted = features(encoder(0))
    np.testing.assert_allclose(ours["cls"], wanted, rtol=0, atol=2e-5)
    read = read_network(checkpoint, num_heads=3)
    for name, tensors in (
        ("projector", head("head", (DIM, 16, 16, 8), 0)),
        ("predictor", PREDICTOR),
    ):
        found = read.network.apply(read.variables, name, wanted, method="project")
        wanted = run_head(tensors, next(iter(tensors)).partition(".")[0], wanted)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_resnet_comes_in_with_its_projector(tmp_path):
    config = {"kind": "resnet", "depths": (1, 1, 1, 1), "width": 8}
    network = build_network(
        section("config.network", {"backbone": config, "heads": {}}, NetworkConfig)
    )
    images = np.zeros((1, 64, 64, 3), np.float32)
    variables = jax.jit(partial(network.init, method="init_all"))(jax.random.key(0), images)
    tensors = {name.removeprefix("backbone."): x for name, x in to_torch(variables).items()}
    tensors |= head("fc", (256, 16, 8), 0)
    names = {f"module.base_encoder.{name}": x for name, x in tensors.items()}
    names |= {f"module.{name}": x for name, x in head("predictor", (8, 16, 8), 1, False).items()}
    save_file(names, tmp_path / "r.safetensors")
    read = read_network(tmp_path / "r.safetensors")
    assert jax.tree.all(
        jax.tree.map(
            np.array_equal, read.variables["params"]["backbone"], variables["params"]["backbone"]
        )
    )
    assert {name: one["last_norm"] for name, one in read.config["heads"].items()} == {
        "projector": "plain",
        "predictor": "none",
    }
    x = np.random.default_rng(0).normal(size=(3, 256)).astype(np.float32)
    found = read.network.apply(read.variables, "projector", x, method="project")
    np.testing.assert_allclose(found, run_head(tensors, "fc", x), rtol=1e-4, atol=1e-4)


def test_a_stem_of_convolutions_comes_in(tmp_path):
    vit = {"kind": "vit", "embed_dim": 48, "depth": 1, "num_heads": 3, "image_size": (64, 64)}
    vit |= {"stem": "convolutions", "patch_size": 16, "position": "rows_first"}
    network = build_network(
        section("config.network", {"backbone": vit, "heads": {}, "dtype": "float32"}, NetworkConfig)
    )
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    variables = jax.jit(partial(network.init, method="init_all"))(jax.random.key(0), images)
    tensors = to_torch(variables) | head("head", (48, 16, 8), 0)
    names = {f"module.base_encoder.{k.removeprefix('backbone.')}": x for k, x in tensors.items()}
    save_file(names, tmp_path / "stem.safetensors")
    read = read_network(tmp_path / "stem.safetensors", num_heads=3)
    assert read.config["backbone"]["stem"] == "convolutions"
    ours, theirs = (
        jax.jit(x.apply)(y, images)["cls"]
        for x, y in ((network, variables), (read.network, read.variables))
    )
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-6)


def test_the_classifier_of_a_linear_probe_is_left_out_and_named(tmp_path):
    tensors = encoder(0) | {
        "head.weight": np.ones((5, DIM), np.float32),
        "head.bias": np.ones(5, np.float32),
    }
    save_file({f"module.{name}": x for name, x in tensors.items()}, tmp_path / "linear.safetensors")
    said = "\n".join(import_weights(tmp_path / "linear.safetensors", tmp_path / "out", num_heads=3))
    assert "left out: head.bias, head.weight" in said


def test_the_momentum_encoder_comes_in_on_request(checkpoint):
    read = read_network(checkpoint, "teacher", num_heads=3)
    ours = jax.jit(read.network.apply)(read.variables, IMAGES)
    np.testing.assert_allclose(ours["cls"], features(encoder(1)), rtol=0, atol=2e-5)


def test_files_are_called_as_its_training_calls_them(checkpoint):
    with pytest.raises(FileNotFoundError, match=r"checkpoint_0299\.pth\.tar does not exist"):
        load(checkpoint.parent / "checkpoint_0299.pth.tar")
