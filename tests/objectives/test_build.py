"""The builders of objectives, and their errors."""

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import vits16_vanilla
from dino_jax.objectives.build import build_objectives
from dino_jax.objectives.centering import Center, Sinkhorn
from dino_jax.objectives.koleo import KoleoObjective
from dino_jax.optim.schedules import Constant

LENGTH = dict(learner="student", total_steps=100, steps_per_epoch=10)


def make_config(**sections):
    config = vits16_vanilla.get_config()
    objectives = ConfigDict(sections or dict(dino={}))
    for name in ("dino", "ibot"):
        if name in objectives:
            changes = objectives[name]
            objectives[name] = config.objectives.dino.copy_and_resolve_references()
            objectives[name].update(changes)
    if "ibot" in objectives:
        del objectives.ibot.min_local_pairs
        objectives.ibot.kind = "ibot"
    return objectives, config.network.heads


def build(**sections):
    return build_objectives(*make_config(**sections), **LENGTH)


def test_the_vanilla_config_is_dino_with_a_center():
    objectives = build()
    assert list(objectives) == ["dino"]
    assert objectives["dino"].centering == Center(0.9)
    np.testing.assert_array_equal(objectives["dino"].init()["center"], jnp.zeros(65536))


def test_dinov2_is_three_sections():
    objectives = build(
        dino=dict(centering="sinkhorn", min_local_pairs=1),
        ibot=dict(centering="sinkhorn", sinkhorn_iterations=2, weight=0.5),
        koleo=dict(weight=0.1, group_size=8),
    )
    assert objectives["dino"].centering == Sinkhorn(3)
    assert objectives["dino"].min_local_pairs == 1
    assert objectives["ibot"].centering == Sinkhorn(2)
    assert objectives["ibot"].weight == Constant(0.5)
    assert objectives["koleo"] == KoleoObjective(Constant(0.1), 8)
    assert all(objective.init() == {} for objective in objectives.values())


def test_the_teacher_temperature_can_move_at_every_step():
    changes = dict(
        warmup_teacher_temperature=0.04,
        teacher_temperature=0.07,
        warmup_teacher_temperature_epochs=3,
    )
    by_epoch = build(dino=changes)["dino"].teacher_temperature
    by_step = build(dino=changes | dict(warmup_teacher_temperature_every="step"))["dino"]
    np.testing.assert_allclose(by_epoch(np.arange(4)), 0.04)
    np.testing.assert_allclose(
        by_step.teacher_temperature(np.arange(31)),
        [*np.linspace(0.04, 0.07, 30), 0.07],
        rtol=1e-12,
    )


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (dict(grams={}), r"unknown objective 'grams'; known: \['byol', 'dino', 'gram', 'ib"),
        (dict(ibot=dict(head="ibot")), r"objectives.ibot.head is 'ibot'; .* has \['dino'\]"),
        (dict(dino=dict(centering="mean")), r"dino.centering is 'mean'; known: \['center', 'sink"),
        (
            dict(dino=dict(center_momentum=1.0)),
            "dino.center_momentum must be at least 0 and below 1, got 1.0",
        ),
        (
            dict(ibot=dict(sinkhorn_iterations=0)),
            "ibot.sinkhorn_iterations must be at least 1, got 0",
        ),
        (
            dict(dino=dict(student_temperature=0.0)),
            "dino.student_temperature must be at least 0.001, got 0.0",
        ),
        (dict(dino=dict(min_local_pairs=-1)), "dino.min_local_pairs must be at least 0, got -1"),
        (
            dict(koleo=dict(weight=0.1, group_size=-1)),
            "koleo.group_size must be at least 0, got -1",
        ),
        (
            dict(dino=dict(warmup_teacher_temperature_every="batch")),
            r"temperature_every is 'batch'; known: \['epoch', 'step'\]",
        ),
    ],
)
def test_wrong_values_are_named(sections, message):
    with pytest.raises(ValueError, match=message):
        build(**sections)


def test_no_objective_at_all_is_an_error():
    with pytest.raises(ValueError, match=r"config\.objectives is empty"):
        build_objectives(ConfigDict(), ConfigDict(), **LENGTH)
