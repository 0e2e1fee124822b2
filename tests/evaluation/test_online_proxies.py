"""Measures during training that need no labels: proxies, and agreement with the first model."""

import json

import numpy as np
import pytest

from dino_jax.evaluation.label_free import retrieval
from dino_jax.evaluation.neighbours import nearest_neighbours, shared_neighbours
from dino_jax.evaluation.online.views import view_features
from tests.evaluation.online_runs import build, init_two, only, small_config, write_images


@pytest.fixture
def photos(tmp_path):
    return write_images(tmp_path / "photos", [f"{index}.png" for index in range(30)])


def of_photos(name, photos, **changes):
    config = only(small_config(), name, k=5, **changes)
    config.evaluations[name].images.update(kind="folder", path=photos)
    return config


def features(evaluation, role, variables):
    return evaluation._context.features(role, variables, evaluation._images).features


def agreement_of_teachers(evaluation, *teachers):
    nearest = [nearest_neighbours(features(evaluation, "teacher", x), 5) for x in teachers]
    return shared_neighbours(*nearest)


def test_proxies_need_no_labels_and_one_folder(photos):
    config = of_photos("proxies", photos)
    first, second = init_two(config)
    evaluation = build(config)["proxies"]
    before = evaluation(0, {"student": first, "teacher": first})
    assert before.keys() == {
        f"proxy/{name}" for name in ("rankme", "decay", "agreement", "retrieval")
    }
    assert before["proxy/agreement"] == 1
    after = evaluation(10, {"student": first, "teacher": second})
    # The student is the earlier teacher.
    assert after["proxy/stability"] == after["proxy/agreement"] < 1
    network, batches = evaluation.evaluation, evaluation.evaluation._images.stream(0, 1)
    rows = [
        np.asarray(
            view_features(network._context.networks["teacher"], second, b["image"], 8, 0.3, 0.4)
        )[b["valid"]]
        for b in batches
    ]
    views = np.concatenate(rows).reshape(30, 8, -1)
    assert after["proxy/retrieval"] == pytest.approx(100 * retrieval(views))
    wanted = agreement_of_teachers(evaluation.evaluation, first, second)
    assert after["proxy/agreement"] == pytest.approx(wanted)
    theirs = features(evaluation.evaluation, "teacher", second)
    singular = np.linalg.svd(theirs.astype(np.float64), compute_uv=False)
    shares = singular / singular.sum()
    wanted = np.exp(-np.sum(shares * np.log(shares)))
    assert after["proxy/rankme"] == pytest.approx(wanted, rel=1e-4)


def test_proxies_of_one_role_compare_it_with_no_other(photos):
    config = of_photos("proxies", photos, of=("student",), views=0)
    measured = build(config)["proxies"](0, {"student": init_two(config)[0]})
    assert measured.keys() == {"proxy/rankme", "proxy/decay"}


def test_one_view_finds_nothing(photos):
    with pytest.raises(ValueError, match=r"proxies\.views is 1, which finds nothing"):
        build(of_photos("proxies", photos, views=1))


def test_more_than_two_roles_cannot_be_compared(photos):
    config = of_photos("proxies", photos, of=("student", "teacher", "student"))
    with pytest.raises(ValueError, match="must name one role, or two to compare"):
        build(config)


@pytest.mark.parametrize("name", ["proxies", "agreement"])
def test_too_few_images_for_the_neighbours_are_a_clear_error(photos, name):
    config = of_photos(name, photos, max_images=5, every_epochs=1.0)
    with pytest.raises(ValueError, match=rf"{name}\.images has 5 images; .*{name}\.k=4"):
        build(config)


def test_agreement_is_that_with_the_first_model_also_in_a_resumed_run(photos, tmp_path):
    config = of_photos("agreement", photos, every_epochs=1.0, of=("teacher", "student"))
    first, other = init_two(config)
    evaluation = build(config, tmp_path)["agreement"]
    begun = evaluation(0, {"teacher": first, "student": first})
    assert begun == {"agreement5/teacher": 1.0, "agreement5/student": 1.0}
    now = evaluation(10, {"teacher": other, "student": first})
    wanted = agreement_of_teachers(evaluation.evaluation, first, other)
    assert now == {"agreement5/teacher": pytest.approx(wanted), "agreement5/student": 1.0}
    resumed = build(config, tmp_path)["agreement"]
    assert resumed(10, {"teacher": other, "student": first}) == now
    kept = json.loads((tmp_path / "first_neighbours/agreement.json").read_text())
    assert np.shape(kept["teacher"]) == (30, 5)
    elsewhere = build(config, tmp_path / "elsewhere")["agreement"]
    assert elsewhere(10, {"teacher": first, "student": first}) == {}


def test_the_guard_compares_neighbours_with_those_that_it_kept(photos):
    config = of_photos("agreement", photos, every_epochs=1.0)
    first, other = init_two(config)
    compared = build(config)["agreement"].evaluation
    assert compared.guarded == "agreement5/teacher"
    kept = json.loads(json.dumps(compared.reference(first, {})))
    assert kept["value"] == 1.0 == compared.value(first, kept, {})
    assert 0 < compared.value(other, kept, {}) < 0.9
    assert compared.value(other, kept, {"agreement5/teacher": 0.25}) == 0.25
    with pytest.raises(ValueError, match="no longer those of the start: 29 then, 30 now"):
        compared.value(first, {"neighbours": kept["neighbours"][:29]}, {})
