"""Hidden patches of an MAE and what its decoder makes of them."""

import copy
from functools import partial

import jax
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict
from PIL import Image

from configs import digits_mae
from dino_jax.data.sources import build_source
from dino_jax.devices.sharding import make_mesh
from dino_jax.evaluation.online.base import Context
from dino_jax.models.build import build_network
from dino_jax.run.whole_config import complete_config
from dino_jax.visualize.album import Album
from dino_jax.visualize.probe_images import ProbeImages, check_probes
from dino_jax.visualize.reconstruction import HIDDEN

SIDE, GRID = 8, 4  # pixels of a patch, patches along one axis


@pytest.fixture(scope="module")
def config():
    config = digits_mae.get_config()
    config.network.backbone.update(embed_dim=24, depth=1, num_heads=3)
    config.network.heads.decoder.update(embed_dim=16, depth=1, num_heads=2)
    config.probes = ConfigDict(dict(count=3, neighbours=2, gallery=20))
    return complete_config(config)


def context_of(config, folder="/nowhere"):
    return Context(
        networks={"student": build_network(config.network)},
        frozen=frozenset(),
        evaluated="student",
        image_size=config.image_size,
        max_pixels=config.max_pixels,
        mesh=make_mesh(1, jax.devices()[:1]),
        folder=epath.Path(folder),
    )


@pytest.fixture(scope="module")
def seen(config):
    context = context_of(config)
    source = build_source(config.data)
    context.share(config.data, source)
    network = context.networks["student"]
    init = partial(network.init, method="init_all")
    variables = jax.jit(init)(jax.random.key(0), np.zeros((1, 32, 32, 3), np.uint8))
    probes = ProbeImages(config, context, source)
    return network, probes, variables, probes.look(variables)


def cut(image: np.ndarray) -> np.ndarray:
    """[32, 32, 3] to [16, 192]."""
    rows = image.reshape(GRID, SIDE, GRID, SIDE, 3).swapaxes(1, 2)
    return rows.reshape(GRID * GRID, -1)


def test_hidden_patches_are_predicted_with_the_brightness_of_the_true_ones(seen):
    network, probes, variables, look = seen
    assert probes.masks.shape == (3, 16) and (probes.masks.sum(axis=1) == 12).all()
    assert len({row.tobytes() for row in probes.masks}) == 3
    std, mean = np.asarray(network.std), np.asarray(network.mean)
    for image, masks, filled in zip(probes.images, probes.masks, look.filled, strict=True):
        visible = np.flatnonzero(~masks)[None].astype(np.int32)
        features = network.apply(variables, image[None], visible=visible)
        tokens = features["cls"], features["patches"], visible
        predicted = np.asarray(network.apply(variables, "decoder", tokens, method="project"))[0]
        true = cut((image / 255.0 - mean) / std)
        scale = np.sqrt(true.var(axis=1, ddof=1, keepdims=True) + 1e-6)
        predicted = predicted * scale + true.mean(axis=1, keepdims=True)
        levels = predicted.reshape(16, SIDE, SIDE, 3) * std + mean
        wanted = np.clip(255 * levels, 0, 255).reshape(16, -1)
        found = cut(filled).astype(float)
        np.testing.assert_allclose(found[masks], wanted[masks], rtol=0, atol=0.6)
        np.testing.assert_array_equal(found[~masks], cut(image)[~masks])
        assert np.abs(found[masks] - cut(image)[masks]).max() > 5


def test_the_album_shows_what_is_seen_and_what_is_filled_in(seen, tmp_path):
    _, probes, _, look = seen
    Album(epath.Path(tmp_path), probes, 10**6).add(7, look)
    for number, (image, masks) in enumerate(zip(probes.images, probes.masks, strict=True)):
        pictures = [
            np.asarray(Image.open(tmp_path / f"probes/7/{number:02d}_{kind}.png"))
            for kind in ("seen", "filled")
        ]
        factor = pictures[0].shape[0] // 32
        hidden, filled = (cut(picture[::factor, ::factor]) for picture in pictures)
        assert (hidden[masks] == HIDDEN).all()
        np.testing.assert_array_equal(hidden[~masks], cut(image)[~masks])
        np.testing.assert_array_equal(filled, cut(look.filled[number]))


def test_images_of_another_size_are_refused_before_the_start(config):
    other = copy.deepcopy(config)
    other.image_size = 48
    with pytest.raises(ValueError, match=r"config.image_size \(48\) is not that of the decoder's"):
        check_probes(other, context_of(other))
    other.probes.count = 0
    check_probes(other, context_of(other))
