"""The k-NN during training, on the digits and on folders that do not fit."""

import pytest

from dino_jax.config.section import section
from dino_jax.evaluation.online import knn
from tests.evaluation.online_runs import build, init_two, only, small_config, write_images


@pytest.fixture
def config():
    return only(small_config(), "knn", raw_pixels=False)


def test_raw_pixels_of_the_digits_reach_97_percent_and_are_measured_before_training(config):
    only(config, "knn", of=("frozen",), raw_pixels=True)
    frozen = init_two(config)[0]
    evaluation = build(config, frozen="frozen")["knn"]
    first = evaluation(0, {"frozen": frozen})
    assert first["knn10/raw_pixels"] == pytest.approx(97.2, abs=0.6)
    assert first.keys() == {"knn10/raw_pixels", "knn10/frozen"}
    assert evaluation(10, {"frozen": frozen}) == {}  # neither can have changed


def test_roles_are_evaluated_by_name_for_every_k(config):
    only(config, "knn", k=(1, 10), max_train_images=300)
    student, teacher = init_two(config)
    evaluation = build(config)["knn"]
    both = evaluation(0, {"student": student, "teacher": teacher})
    assert both.keys() == {f"knn{k}/{name}" for k in (1, 10) for name in ("student", "teacher")}
    assert all(10 < accuracy <= 100 for accuracy in both.values())
    swapped = evaluation(10, {"student": teacher, "teacher": student})
    assert both != swapped
    for k in (1, 10):
        assert both[f"knn{k}/student"] == swapped[f"knn{k}/teacher"]


def test_the_guard_gets_a_share_that_is_measured_only_if_it_is_not_known(config):
    only(config, "knn", of=(), max_train_images=200, max_test_images=100)
    (first, _), compared = init_two(config), build(config)["knn"].evaluation
    assert compared.guarded == "knn10/teacher"
    assert compared.reference(first, {"knn10/teacher": 12.5}) == {"value": 0.125}
    value = compared.value(first, {}, {})
    assert 0.1 < value < 0.9 and value == round(value * 100) / 100  # of 100 images
    assert 100 * value == compared(0, {"teacher": first})["knn10/teacher"]


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_source_without_labels_is_a_clear_error(config, tmp_path, part):
    path = write_images(tmp_path, ["a.png", "b.png"])
    config.evaluations.knn[part].update(kind="folder", path=path)
    message = rf"config\.evaluations\.knn\.{part} has no labels.*proxies\.images.*every_epochs=0\.0"
    with pytest.raises(ValueError, match=message):
        build(config)


def test_other_classes_are_a_clear_error(config, tmp_path):
    path = write_images(tmp_path, ["7/a.png", "x/b.png"])
    config.evaluations.knn.test.update(kind="folder", path=path)
    with pytest.raises(ValueError, match=r"different classes; in one only: .*'x'"):
        build(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(batch_size=6), r"knn\.batch_size \(6\) .* 4 devices; try .*knn\.batch_size=4"),
        (dict(image_size=4), r"knn\.image_size \(4\) is smaller than one patch of 8 pixels"),
        (dict(k=()), r"config\.evaluations\.knn\.k \(\) must name numbers"),
        (dict(k=(10, 500), max_train_images=100), r"training images \(100\); try .*'\(100,\)'"),
        (dict(of=("teacher", "techer")), r"the role 'techer', .*did you mean 'teacher'\?"),
    ],
)
def test_numbers_that_do_not_fit_are_errors_before_the_run(config, changes, message):
    config.evaluations.knn.update(changes)
    with pytest.raises(ValueError, match=message):
        build(config)


def test_images_smaller_than_a_patch_are_an_error_of_the_option_that_says_so(config):
    config.image_size = 4
    with pytest.raises(ValueError, match=r"^config\.image_size \(4\) is smaller .* of 8 pixels"):
        build(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(k=(0, 10)), r"knn\.k\[0\] must be at least 1"),
        (dict(temperature=0.0), r"knn\.temperature must be at least 0.001"),
        (dict(max_test_images=0), r"knn\.max_test_images must be at least 1"),
        (dict(measure="proxies"), r"config\.evaluations\.knn has no 'measure'"),
    ],
)
def test_options_out_of_range_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        section("config.evaluations.knn", changes, knn.Config)
