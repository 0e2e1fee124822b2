"""The table of evaluations: kinds, rhythms, names, and images that are not given."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from configs import vits16_vanilla
from dino_jax.config.section import option, section
from dino_jax.evaluation.online.base import EvaluationConfig
from dino_jax.evaluation.online.build import (
    EVALUATIONS,
    build_evaluations,
    held_out_images,
    left_out,
)
from tests.evaluation.online_runs import build, init_two, make_context, only, small_config


@dataclass(frozen=True)
class SizeConfig(EvaluationConfig):
    kind: str = option("size", "number of parameters")
    unit: int = option(1, "parameters that count as one", at_least=1)


def build_size(where: str, config: Any, context: Any) -> Any:
    def measure(step: int, networks: Mapping[str, Any]) -> dict[str, float]:
        sizes = {role: jax.tree.leaves(networks[role]) for role in context.roles(config)}
        return {
            f"size/{role}": sum(x.size for x in leaves) / config.unit + step
            for role, leaves in sizes.items()
        }

    return measure


@pytest.fixture
def with_size(monkeypatch):
    """A config with an evaluation of a kind that this file alone adds."""
    toy = SimpleNamespace(
        Config=SizeConfig, IMAGES={}, GUARDS=False, check=lambda *_: None, build=build_size
    )
    monkeypatch.setitem(EVALUATIONS, "size", toy)
    config = only(small_config(), "knn", every_epochs=0.0)
    config.evaluations.weight = section("config.evaluations.weight", {"kind": "size"}, SizeConfig)
    return config


def test_a_new_kind_is_one_row(with_size):
    (name,), (evaluation,) = zip(*build(with_size).items(), strict=True)
    student = init_two(with_size)[0]
    count = sum(leaf.size for leaf in jax.tree.leaves(student))
    assert (name, evaluation.every_steps) == ("weight", 100)
    assert evaluation(7, {"student": student, "teacher": student}) == {"size/teacher": count + 7}
    assert held_out_images("weight", with_size) is None


def test_each_evaluation_is_due_at_its_own_multiples_and_at_the_last_step(with_size):
    twice = {"kind": "size", "every_epochs": 0.25}
    with_size.evaluations.often = section("often", twice, SizeConfig)
    often, weight = (build(with_size)[name] for name in ("often", "weight"))
    assert often.every_steps == 3  # of 10 steps per epoch, rounded up
    due = [(step, often.due(step, False), weight.due(step, False)) for step in (0, 3, 100)]
    assert due == [(0, True, True), (3, True, False), (100, False, True)]
    assert often.due(5, True) and weight.due(5, True)


def test_names_of_metrics_say_which_of_several_evaluations_of_a_kind_measured(with_size):
    for name in ("a", "size", "b"):
        with_size.evaluations[name] = section(name, {"kind": "size"}, SizeConfig)
    student = init_two(with_size)[0]
    networks = {"student": student, "teacher": student}
    found = {name: next(iter(x(0, networks))) for name, x in build(with_size).items()}
    # The one with the name of its kind keeps the plain names, whatever the order.
    assert found == {"size": "size/teacher"} | {
        name: f"{name}/size/teacher" for name in ("a", "b", "weight")
    }
    del with_size.evaluations["size"]
    assert next(iter(build(with_size)["a"](0, networks))) == "size/teacher"
    assert build(with_size)["b"].own({"b/size/x": 1.0, "size/x": 2.0}) == {"size/x": 1.0}


def without_images(config):
    for entry in (config.evaluations.knn.train, config.evaluations.knn.test):
        entry.update(kind="folder", path="")
    return config


def test_evaluations_without_images_are_left_out_with_a_line_that_says_how_to_add_them():
    config = without_images(only(small_config(), "knn"))
    assert build(config) == {}
    assert left_out(config) == [
        "evaluation  knn is left out: it needs labelled training images "
        "(--config.evaluations.knn.train.path=FOLDER) and labelled test images "
        "(--config.evaluations.knn.test.path=FOLDER)"
    ]
    config.evaluations.knn.every_epochs = 0.0  # nobody wants it
    assert left_out(config) == []


def test_half_of_the_images_and_a_wrong_path_are_errors_that_name_their_section(tmp_path):
    config = without_images(only(small_config(), "knn"))
    config.evaluations.knn.test.path = str(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"evaluations\.knn has only a part.*knn\.train\.path="):
        build(config)
    config.evaluations.knn.train.update(kind="digits")
    with pytest.raises(OSError, match=r"^config\.evaluations\.knn\.test: image folder .*gone"):
        build(config)


def test_an_unknown_kind_is_named():
    config = only(small_config(), "knn", kind="kn")
    with pytest.raises(ValueError, match=r"knn\.kind is 'kn'; did you mean 'knn'\?"):
        build(config)


def test_a_source_that_several_evaluations_read_is_opened_once():
    config = small_config()
    context = make_context(config)
    evaluations = build_evaluations(config, context, 10)
    sources = [evaluations[name].evaluation._images.source for name in ("proxies",)]
    assert context.open_source(*held_out_images("knn", config)) is sources[0]


@pytest.mark.parametrize("kind", ["knn", "proxies", "agreement"])
def test_the_base_config_has_the_defaults_of_its_kinds(kind):
    entry = vits16_vanilla.get_config().evaluations[kind]
    if kind == "proxies":
        entry.of = ()
    config_class = EVALUATIONS[kind].Config
    assert section("config", entry, config_class) == config_class()
