"""The k-NN during training, on the digits and on folders that do not fit."""

from functools import partial

import jax
import numpy as np
import pytest
from PIL import Image

from configs import quickstart
from dino_jax.devices.sharding import make_mesh
from dino_jax.evaluation.neighbours import neighbour_agreement
from dino_jax.evaluation.online import OnlineEvaluation
from dino_jax.models.build import build_network


@pytest.fixture
def config():
    config = quickstart.get_config()
    config.network.backbone.update(embed_dim=24, depth=1, num_heads=3)
    config.network.heads.dino.update(out_dim=32, hidden_dim=16, bottleneck_dim=8)
    return config


def build(config):
    return OnlineEvaluation(config, build_network(config.network), make_mesh(1))


def init_two(config):
    init = jax.jit(partial(build_network(config.network).init, method="init_all"))
    images = np.zeros((1, 32, 32, 3), np.uint8)
    return (init(jax.random.key(seed), images) for seed in (0, 1))


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
    student, teacher = init_two(config)
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
    message = rf"config\.knn\.{part} has no labels.*measure=proxies.*every_epochs=0\.0"
    with pytest.raises(ValueError, match=message):
        build(config)


def test_proxies_need_no_labels_and_one_folder(config, tmp_path):
    path = write_images(tmp_path, [f"{index}.png" for index in range(30)])
    config.knn.update(measure="proxies", k=(5,))
    config.knn.test.update(kind="folder", path=path)
    config.knn.train.update(kind="folder", path="/does/not/exist")
    first, second = init_two(config)
    online = build(config)
    assert online.raw_pixels() == {}
    before = online({"student": first, "teacher": first})
    assert before.keys() == {"proxy/rankme", "proxy/agreement"}
    assert before["proxy/agreement"] == 1
    after = online({"student": first, "teacher": second})
    # The student is the earlier teacher.
    assert after["proxy/stability"] == after["proxy/agreement"] < 1
    features = [online._features(each, "test").features for each in (first, second)]
    wanted = neighbour_agreement(features[0], features[1], 5)
    assert after["proxy/agreement"] == pytest.approx(wanted)
    singular = np.linalg.svd(features[1].astype(np.float64), compute_uv=False)
    shares = singular / singular.sum()
    wanted = np.exp(-np.sum(shares * np.log(shares)))
    assert after["proxy/rankme"] == pytest.approx(wanted, rel=1e-4)


def test_both_measures_can_be_asked_for(config):
    config.knn.update(measure="both", max_train_images=100, max_test_images=50)
    student, teacher = init_two(config)
    results = build(config)({"student": student, "teacher": teacher})
    accuracies = {"knn10/teacher", "knn10/student"}
    assert results.keys() == accuracies | {"proxy/rankme", "proxy/agreement"}


def test_too_few_images_for_the_neighbours_are_a_clear_error(config, tmp_path):
    path = write_images(tmp_path, [f"{index}.png" for index in range(10)])
    config.knn.update(measure="proxies")
    config.knn.test.update(kind="folder", path=path)
    with pytest.raises(ValueError, match=r"has 10 images; add images or try .*knn\.k='\(9,\)'"):
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
        (dict(measure="labels"), r"unknown knn.measure 'labels'; known: \('knn', 'proxies'"),
        (dict(networks=("teacher", "center")), r"unknown knn.networks \['center'\]"),
    ],
)
def test_numbers_that_do_not_fit_are_errors_before_the_run(config, changes, message):
    config.knn.update(changes)
    with pytest.raises(ValueError, match=message):
        build(config)
