"""The k-NN during training, on the digits and on folders that do not fit."""

from functools import partial

import jax
import numpy as np
import pytest
from PIL import Image

from configs import quickstart
from dino_jax.evaluation.online import OnlineKnn
from dino_jax.models.network import build_network
from dino_jax.sharding import make_mesh


@pytest.fixture
def config():
    config = quickstart.get_config()
    config.network.backbone.update(embed_dim=24, depth=1, num_heads=3)
    config.network.heads.dino.update(out_dim=32, hidden_dim=16, bottleneck_dim=8)
    return config


def build(config):
    return OnlineKnn(config, build_network(config.network), make_mesh(1))


def write_images(folder, names):
    for index, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return str(folder)


def test_raw_pixels_of_the_digits_reach_97_percent(config):
    (accuracy,) = build(config).raw_pixels().values()
    assert accuracy == pytest.approx(97.2, abs=0.6)


def test_raw_pixels_are_only_measured_when_asked_for(config):
    config.knn.raw_pixels = False
    assert build(config).raw_pixels() == {}


def test_networks_are_evaluated_by_name_for_every_k(config):
    config.knn.update(k=(1, 10), max_train_images=300)
    init = jax.jit(partial(build_network(config.network).init, method="init_all"))
    images = np.zeros((1, 32, 32, 3), np.uint8)
    student, teacher = (init(jax.random.key(seed), images) for seed in (0, 1))
    knn = build(config)
    both = knn({"student": student, "teacher": teacher})
    assert both.keys() == {f"knn{k}/{name}" for k in (1, 10) for name in ("student", "teacher")}
    assert all(10 < accuracy <= 100 for accuracy in both.values())
    swapped = knn({"student": teacher, "teacher": student})
    assert both != swapped
    for k in (1, 10):
        assert both[f"knn{k}/student"] == swapped[f"knn{k}/teacher"]


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_source_without_labels_is_a_clear_error(config, tmp_path, part):
    path = write_images(tmp_path, ["a.png", "b.png"])
    config.knn[part].update(kind="folder", path=path)
    with pytest.raises(ValueError, match=rf"config\.knn\.{part} has no labels.*every_epochs=0\.0"):
        build(config)


def test_other_classes_are_a_clear_error(config, tmp_path):
    path = write_images(tmp_path, ["7/a.png", "x/b.png"])
    config.knn.test.update(kind="folder", path=path)
    with pytest.raises(ValueError, match=r"different classes; in one only: .*'x'"):
        build(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(batch_size=6), r"knn.batch_size \(6\) .* 4 devices; try --config.knn.batch_size=4"),
        (dict(image_size=4), "smaller than one patch of 8 pixels"),
        (dict(k=()), "must name numbers of neighbours >= 1"),
        (dict(k=(0, 10)), "must name numbers of neighbours >= 1"),
        (dict(k=(10, 500), max_train_images=100), r"training images \(100\); try .*'\(100,\)'"),
        (dict(temperature=0.0), r"knn.temperature \(0.0\) must be positive"),
        (dict(max_test_images=0), "must be at least 1"),
        (dict(networks=("teacher", "center")), r"unknown knn.networks \['center'\]"),
    ],
)
def test_numbers_that_do_not_fit_are_errors_before_the_run(config, changes, message):
    config.knn.update(changes)
    with pytest.raises(ValueError, match=message):
        build(config)
