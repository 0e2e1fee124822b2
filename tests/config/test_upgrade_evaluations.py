"""The evaluations, guard and probes of version 0.1 in today's form."""

import copy

import pytest

from configs.vits16_vanilla import images
from dino_jax.config.section import section
from dino_jax.config.upgrade import upgrade
from dino_jax.evaluation.online.build import EVALUATIONS
from dino_jax.run.guard import GuardConfig
from dino_jax.visualize.probe_images import ProbesConfig

TRAIN = {**images("folder", "train").to_dict(), "path": "train"}
TEST = {**images("folder", "validation").to_dict(), "path": "val"}


def old(**knn):
    return {
        "knn": {
            "every_epochs": 4.0,
            "measure": "knn",
            "train": TRAIN,
            "test": TEST,
            "max_train_images": 500,
            "max_test_images": 300,
            "image_size": 32,
            "batch_size": 256,
            "k": [5, 10],
            "temperature": 0.1,
            "networks": ["teacher"],
            "raw_pixels": True,
            **knn,
        },
        "guard": {"action": "none", "measure": "knn", "margin": 0.1, "every_epochs": 2.0},
        "probes": {"count": 3, "source": "test", "neighbours": 2, "gallery": 100},
        "distill": {"path": "", "step": None},
    }


def evaluations(config):
    table = upgrade(config)["evaluations"]
    return {name: section(name, entry, EVALUATIONS[name].Config) for name, entry in table.items()}


def test_the_numbers_of_the_k_nn_stay():
    given = old()
    before = copy.deepcopy(given)
    new = upgrade(given)
    assert given == before and "knn" not in new and new["image_size"] == 32
    knn = evaluations(given)["knn"]
    assert (knn.every_epochs, knn.k, knn.temperature, knn.raw_pixels) == (4.0, (5, 10), 0.1, True)
    assert (knn.train.path, knn.test.path, knn.of, knn.image_size) == ("train", "val", (), None)
    assert (knn.max_train_images, knn.max_test_images, knn.batch_size) == (500, 300, 256)


@pytest.mark.parametrize(
    ("measure", "rhythms", "path"),
    [("knn", (4.0, 4.0), ""), ("proxies", (0.0, 4.0), "val"), ("both", (4.0, 4.0), "val")],
)
def test_only_what_was_measured_has_its_images(measure, rhythms, path):
    table = evaluations(old(measure=measure))
    knn, proxies = table["knn"], table["proxies"]
    assert (knn.every_epochs, proxies.every_epochs) == rhythms
    assert (proxies.images.path, proxies.k, proxies.max_images) == (path, 5, 300)
    assert proxies.of == ("teacher", "student") and table["agreement"].images.path == ""


def test_the_frozen_teacher_of_a_distillation_is_measured():
    config = old(networks=["teacher", "student"])
    assert evaluations(config)["knn"].of == ("teacher", "student")
    config["distill"]["path"] = "runs/large"
    assert evaluations(config)["knn"].of == ("teacher", "student", "frozen_teacher")


def test_a_guard_that_measured_agreement_has_its_images():
    config = old()
    config["guard"]["measure"] = "agreement"
    guard = section("guard", upgrade(config)["guard"], GuardConfig)
    assert (guard.evaluation, guard.margin, guard.every_epochs) == ("agreement", 0.1, 2.0)
    agreement = evaluations(config)["agreement"]
    assert (agreement.every_epochs, agreement.images.path, agreement.k) == (0.0, "val", 5)


@pytest.mark.parametrize(("source", "name"), [("test", "knn"), ("train", "")])
def test_probes_are_those_of_an_evaluation(source, name):
    config = old()
    config["probes"]["source"] = source
    probes = section("probes", upgrade(config)["probes"], ProbesConfig)
    assert probes == ProbesConfig(count=3, evaluation=name, neighbours=2, gallery=100)


def test_a_folder_of_imported_weights_has_an_image_size():
    plain = {"network": {"backbone": {}}, "knn": {"image_size": 518}, "imported": {}}
    new = upgrade(plain)
    assert new["image_size"] == 518 and "knn" not in new and "evaluations" not in new
