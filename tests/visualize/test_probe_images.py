"""The fixed images of a run: what the network sees in them, and the files about it."""

import json
from functools import partial

import jax
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict
from PIL import Image

from configs import quickstart
from dino_jax.config.defaults import to_config_dict
from dino_jax.config.section import section
from dino_jax.data.sources import build_source
from dino_jax.devices.sharding import make_mesh, state_sharding
from dino_jax.evaluation.online.base import Context
from dino_jax.models import resnet
from dino_jax.models.build import build_network
from dino_jax.visualize.album import Album
from dino_jax.visualize.attention import cls_to_patches
from dino_jax.visualize.gallery import number_rows
from dino_jax.visualize.probe_images import ProbeImages, ProbesConfig
from dino_jax.workdir.layout import drawn_steps, probe_image, step_folder


@pytest.fixture(scope="module")
def config():
    config = quickstart.get_config()
    config.network.backbone.update(embed_dim=24, depth=2, num_heads=3, registers=2)
    config.network.heads.dino.update(out_dim=32, hidden_dim=16, bottleneck_dim=8)
    config.probes.update(count=3, neighbours=4, gallery=50)
    return config


def build(config, devices=None, fsdp=1):
    network = build_network(config.network)
    context = Context(
        networks={"teacher": network},
        frozen=frozenset(),
        evaluated="teacher",
        image_size=config.image_size,
        max_pixels=config.max_pixels,
        mesh=make_mesh(fsdp, devices),
        folder=epath.Path("/nowhere"),
    )
    source = build_source(config.data)
    context.share(config.data, source)
    return network, ProbeImages(config, context, source)


def init(network, size=32, seed=0):
    images = np.zeros((1, size, size, 3), np.uint8)
    return jax.jit(partial(network.init, method="init_all"))(jax.random.key(seed), images)


@pytest.fixture(scope="module")
def seen(config):
    network, probes = build(config, jax.devices()[:1])
    variables = init(network)
    return network, probes, variables, probes.look(variables)


def test_attention_and_patches_are_those_of_the_network(seen):
    network, probes, variables, look = seen
    features = network.apply(variables, probes.images)
    attention = np.asarray(network.apply(variables, probes.images, method="attention"))
    assert look.attention.shape == (3, 3, 4, 4)
    np.testing.assert_allclose(look.attention, cls_to_patches(attention, (4, 4)), rtol=1e-4)
    patches = features["patches"].reshape(3, 4, 4, 24)
    np.testing.assert_allclose(look.patches, patches, rtol=1e-4, atol=1e-5)


def test_neighbours_are_the_gallery_images_of_largest_cosine(seen):
    network, probes, variables, look = seen
    train = probes.train
    indices = np.arange(50) * len(train) // 50
    gallery = np.stack([np.asarray(train[i]["image"]) for i in indices])
    unit = [
        x / np.linalg.norm(x, axis=1, keepdims=True)
        for x in (
            np.asarray(network.apply(variables, images)["cls"])
            for images in (probes.images, gallery)
        )
    ]
    cosine = unit[0] @ unit[1].T
    expected = np.sort(cosine, axis=1)[:, :-5:-1]
    np.testing.assert_allclose(look.cosine, expected, atol=1e-5)
    found = [[int(np.flatnonzero(indices == i)[0]) for i in row] for row in look.nearest]
    np.testing.assert_allclose(np.take_along_axis(cosine, np.array(found), 1), expected, atol=1e-5)


@pytest.mark.parametrize("fsdp", [1, 2])
def test_every_mesh_sees_the_same(fsdp, config, seen, capfd):
    network, probes = build(config, fsdp=fsdp)
    assert jax.device_count() > 2
    variables = init(network)
    shardings = state_sharding(make_mesh(fsdp), variables)
    again = probes.look(jax.device_put(variables, shardings))
    # XLA from jaxlib 0.11 on says if it makes split weights whole and splits them again.
    assert "rematerialization" not in capfd.readouterr().err
    assert again.filled is None
    for ours, theirs in zip(again[:-1], seen[-1][:-1], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_training_image_is_not_its_own_neighbour(config):
    config = ConfigDict(config.to_dict())
    config.probes.update(evaluation="", count=5, gallery=5)
    network, probes = build(config)
    look = probes.look(init(network))
    assert look.nearest.shape == (5, 4)
    for index, row in zip(probes.indices, look.nearest, strict=True):
        assert sorted([index, *row]) == sorted(probes.indices)


def test_probes_are_held_out_images_or_training_images(config):
    assert len(build(config)[1].source) == 359
    config = ConfigDict(config.to_dict())
    config.probes.evaluation = ""
    assert len(build(config)[1].source) == 1438


def test_an_evaluation_that_was_left_out_has_no_probes_so_they_are_training_images(config):
    config = ConfigDict(config.to_dict())
    for entry in (config.evaluations.knn.train, config.evaluations.knn.test):
        entry.update(kind="folder", path="")
    probes = build(config)[1]
    assert probes.source is probes.train


def test_images_that_are_also_trained_on_are_not_their_own_neighbours(config):
    config = ConfigDict(config.to_dict())
    config.evaluations.knn.test = config.data
    probes = build(config)[1]
    assert probes.source is probes.train


def test_a_resnet_has_no_attention_but_patches(config):
    config = ConfigDict(config.to_dict())
    config.network.backbone = to_config_dict(resnet.Config(depths=(1, 1), width=4))
    network, probes = build(config)
    look = probes.look(init(network))
    assert look.attention is None
    assert look.patches.shape == (3, 4, 4, 32)


def test_values_that_do_not_fit_are_errors(config):
    config = ConfigDict(config.to_dict())
    config.probes.evaluation = "kn"
    with pytest.raises(ValueError, match=r"probes\.evaluation is 'kn', .*did you mean 'knn'\?"):
        build(config)
    config.probes.evaluation, config.image_size = "", 4
    with pytest.raises(
        ValueError, match=r"config\.image_size \(4\) is smaller than one patch of 8"
    ):
        build(config)
    for changes, message in [
        (dict(count=-1), r"config\.probes\.count must be at least 0"),
        (dict(gallery=0), r"config\.probes\.gallery must be at least 1"),
        (dict(source="test"), r"config\.probes has no 'source'"),
    ]:
        with pytest.raises(ValueError, match=message):
            section("config.probes", changes, ProbesConfig)


def test_the_base_config_has_the_defaults():
    assert section("config.probes", quickstart.get_config().probes, ProbesConfig) == ProbesConfig()


def test_rows_are_numbered_over_all_hosts():
    batches = [{"label": np.zeros(2, np.int32)} for _ in range(3)]
    numbers = [
        [batch["label"].tolist() for batch in number_rows(batches, 4, host, hosts=2)]
        for host in (0, 1)
    ]
    assert numbers == [[[0, 1], [4, 5], [8, 9]], [[2, 3], [6, 7], [10, 11]]]


def test_the_album_holds_every_picture_of_an_evaluation(seen, tmp_path):
    _, probes, _, look = seen
    folder = epath.Path(tmp_path)
    album = Album(folder, probes, max_pixels=10**6)
    for step in (0, 20):
        album.add(step, look)
    assert drawn_steps(folder) == [0, 20]
    names = {path.name for path in step_folder(folder, 20).iterdir()}
    kinds = ("attention", "heads", "neighbours", "pca")
    assert names == {f"{i:02d}_{k}.png" for i in range(3) for k in kinds} | {
        "pca.npy",
        "probes.json",
    }
    sizes = {kind: Image.open(tmp_path / f"probes/20/00_{kind}.png").size for kind in kinds}
    assert sizes["attention"] == sizes["pca"] == (96, 96)
    assert sizes["heads"] == (3 * 64 + 2 * 2, 64)
    assert sizes["neighbours"] == (4 * 96 + 3 * 2, 96)
    original = np.asarray(Image.open(probe_image(folder, 1)))
    np.testing.assert_array_equal(original[::3, ::3], probes.images[1])
    described = json.loads((tmp_path / "probes/20/probes.json").read_text())
    assert described["heads"] == 3
    first = described["probes"][0]
    assert first["label"] == str(probes.source[0]["label"])
    assert [n["cosine"] for n in first["neighbours"]] == pytest.approx(look.cosine[0], abs=1e-4)


def test_colors_keep_their_sign_from_one_evaluation_to_the_next(seen, tmp_path):
    _, probes, _, look = seen
    Album(epath.Path(tmp_path), probes, 10**6).add(0, look)
    before = np.load(tmp_path / "probes/0/pca.npy").astype(np.float32)
    np.save(tmp_path / "probes/0/pca.npy", before * np.array((-1, 1, -1), np.float16))
    # Another process continues the run.
    Album(epath.Path(tmp_path), probes, 10**6).add(10, look)
    after = np.load(tmp_path / "probes/10/pca.npy").astype(np.float32)
    np.testing.assert_array_equal(after, before * (-1, 1, -1))
