"""A third backbone, which nothing but its row in the table of backbones knows about."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dino_jax
from configs import quickstart
from dino_jax.config.section import option
from dino_jax.devices.sharding import make_mesh
from dino_jax.embedding.embedder import check_tokens, make_embedder
from dino_jax.evaluation.features import extract_features, make_extractor
from dino_jax.evaluation.knn import knn_accuracy
from dino_jax.models.backbone import OneBlock
from dino_jax.models.build import BACKBONES, read_network_config
from dino_jax.step.recipe import build_recipe
from tests.saved_model import save_model

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)


class Cells(OneBlock, nn.Module):
    """Means of 8 x 8 pixels through one linear layer."""

    embed_dim: int
    in_channels: int = 3
    patch_size = 8

    @nn.compact
    def __call__(self, images):
        cells = nn.avg_pool(images.astype(jnp.float32), (8, 8), (8, 8))
        patches = nn.Dense(self.embed_dim, name="linear")(cells.reshape(len(cells), -1, 3))
        return {"cls": patches.mean(axis=1), "patches": patches}


@dataclass(frozen=True)
class CellsConfig:
    kind: str = option("cells", "means of cells")
    width: int = option(12, "of the features", at_least=1)


class CellsKind:
    Config = CellsConfig

    @staticmethod
    def build(config, dtype):
        return Cells(config.width)


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setitem(BACKBONES, "cells", CellsKind)
    config = quickstart.get_config()
    config.optimizer.warmup_epochs = 0.0
    config.network.backbone = {"kind": "cells", "width": 20}
    config.network.heads.dino.update(out_dim=16, hidden_dim=8, bottleneck_dim=8)
    return config


@pytest.mark.parametrize("devices", [1, 4])
def test_it_trains(config, devices):
    recipe = build_recipe(config, 1438)
    state = jax.jit(recipe.init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    batch = {
        "global_crops": rng.normal(size=(4, 2, 32, 32, 3)).astype(np.float32),
        "local_crops": rng.normal(size=(4, 2, 16, 16, 3)).astype(np.float32),
    }
    after, metrics = jax.jit(recipe.make_step(mesh=make_mesh(1, jax.devices()[:devices])))(
        state, batch
    )
    assert np.isfinite(metrics["loss"]) and int(after.step) == 1
    moved = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), state.networks["student"], after.networks["student"]
    )
    assert moved["params"]["backbone"]["linear"]["kernel"] > 0


def test_its_features_are_embedded_and_compared(config, tmp_path):
    model = dino_jax.load(save_model(tmp_path, config))
    assert model.network.backbone.embed_dim == 20
    mesh = make_mesh(1, jax.devices()[:1])
    embed = make_embedder(model, mesh, tokens="both", layers=1)
    assert embed(PIXELS).shape == (8, 40)
    with pytest.raises(ValueError, match="this Cells gives the features of 1 to 1 layers"):
        check_tokens(model.network, "cls", 2)
    rows = dict(valid=np.ones(8, bool), label=np.arange(8) % 2, unreadable=np.full(8, -1))
    extract = make_extractor(model.network, mesh)
    features = extract_features(extract, model.variables, [{"image": PIXELS, **rows}], mesh)
    assert features.features.shape == (8, 20)
    images = (features.features, features.labels)
    nearest = knn_accuracy(*images, *images, k=(1,), temperature=0.07)[1]
    assert nearest.top1 == 100  # every image is its own neighbour
    with pytest.raises(ValueError, match="a Cells has no attention weights"):
        model.attention(PIXELS)


def test_its_options_are_checked_like_those_of_the_others(config):
    network = config.network.to_dict()
    network["backbone"]["widht"] = 3
    with pytest.raises(ValueError, match="backbone has no 'widht'; did you mean 'width'"):
        read_network_config({"network": network})
