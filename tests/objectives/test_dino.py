"""The DINO objective against recorded outputs of the official code and a plain double loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dino_jax.objectives.base import Context
from dino_jax.objectives.centering import Center, Sinkhorn
from dino_jax.objectives.dino import Config, DinoObjective, build, dino_losses
from dino_jax.optim.parts import PartsConfig
from dino_jax.optim.schedules import Constant, TeacherTemperature
from tests.objectives.branches import image_major, log_softmax, run


def test_loss_center_and_gradients_equal_official_over_five_steps(golden):
    arrays = golden("v1/dino_loss_mc10")
    steps_per_epoch = 10
    objective = DinoObjective(
        head="dino",
        prototypes=512,
        student_temperature=0.1,
        teacher_temperature=TeacherTemperature(0.04, 0.07, 3, steps_per_epoch),
        centering=Center(0.9),
    )
    state = objective.init()
    for index, epoch in enumerate(arrays["epochs"]):
        student = image_major(arrays[f"student_{index}"], 4)
        teacher = image_major(arrays[f"teacher_{index}"], 4)

        step = int(epoch) * steps_per_epoch
        outcome, grads = run(objective, {"cls": student}, {"cls": teacher}, {}, state, step)
        np.testing.assert_allclose(outcome.loss, arrays[f"loss_{index}"], rtol=0, atol=1e-5)
        state = outcome.state
        np.testing.assert_allclose(state["center"], arrays[f"center_{index}"][0], rtol=0, atol=1e-5)
        official = arrays[f"grad_student_{index}"]
        if official.size:
            np.testing.assert_allclose(grads["cls"], image_major(official, 4), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("views", "teachers"), [(2, 2), (5, 2), (4, 3)])
def test_loss_is_the_mean_over_pairs_of_different_views(views, teachers):
    rng = np.random.default_rng(0)
    student = rng.normal(size=(3, views, 7)).astype(np.float32)
    targets = rng.dirichlet(np.ones(7), size=(3, teachers)).astype(np.float32)
    pairs = [
        -(targets[:, i] * log_softmax(student[:, j] / 0.1)).sum(-1).mean()
        for i in range(teachers)
        for j in range(views)
        if i != j
    ]
    np.testing.assert_allclose(sum(dino_losses(student, targets, 0.1)), np.mean(pairs), rtol=1e-5)


def test_no_array_is_made_per_pair():
    images, views, teachers, prototypes = 4, 10, 2, 512
    shapes = (
        jax.ShapeDtypeStruct((images, views, prototypes), jnp.float32),
        jax.ShapeDtypeStruct((images, teachers, prototypes), jnp.float32),
    )
    jaxpr = jax.make_jaxpr(lambda s, t: dino_losses(s, t, 0.1))(*shapes)
    largest = max(
        variable.aval.size for equation in jaxpr.jaxpr.eqns for variable in equation.outvars
    )
    assert largest <= images * views * prototypes


def test_teacher_gets_no_gradient():
    objective = DinoObjective("dino", 8, 0.1, Constant(0.04), Center(0.9))
    logits = {"cls": jax.random.normal(jax.random.key(0), (2, 2, 8))}

    @jax.jit
    def loss(teacher):
        return run(objective, logits, teacher, {}, objective.init())[0].loss

    np.testing.assert_array_equal(jax.grad(loss)(logits)["cls"], np.zeros((2, 2, 8)))


def run_on_v2_logits(arrays, centering, **changes):
    """Outcome and gradient of the recorded v2 logits: 2 global and 4 local crops of 6 images."""
    student = np.concatenate(
        [image_major(arrays[f"dino/student_{kind}"], 6) for kind in ("global", "local")], axis=1
    )
    # Recorded with the halves swapped, so that a row of the teacher meets the student's other crop.
    teacher = image_major(arrays["dino/teacher_logits_1"], 6)[:, ::-1]
    temperature = Constant(float(arrays["dino/teacher_temp"]))
    objective = DinoObjective("dino", 64, 0.1, temperature, centering, **changes)

    outcome, grads = run(objective, {"cls": student}, {"cls": teacher}, {}, objective.init())
    return outcome, grads["cls"]


def test_loss_and_gradient_equal_official_v2_with_sinkhorn(golden):
    arrays = golden("v2/b_losses")
    outcome, grads = run_on_v2_logits(arrays, Sinkhorn())
    # DINOv2 divides by the 2 * 4 local and the 2 global pairs; its global loss counts twice.
    wanted_global = arrays["dino/loss_global_raw"] * 2 / 10
    wanted_local = arrays["dino/loss_local_raw"] / 10
    np.testing.assert_allclose(outcome.metrics["global_loss"], wanted_global, rtol=1e-5)
    np.testing.assert_allclose(outcome.metrics["local_loss"], wanted_local, rtol=1e-5)
    np.testing.assert_allclose(outcome.loss, wanted_global + wanted_local, rtol=1e-5)
    wanted_grads = np.concatenate(
        [
            image_major(arrays["dino/grad_student_global"], 6) * 2 / 10,
            image_major(arrays["dino/grad_student_local"], 6) / 10,
        ],
        axis=1,
    )
    np.testing.assert_allclose(grads, wanted_grads, rtol=0, atol=1e-6)
    assert outcome.state == {}


def test_without_local_crops_v2_divides_two_pairs_by_three():
    rng = np.random.default_rng(3)
    student = rng.normal(size=(3, 2, 7)).astype(np.float32)
    targets = rng.dirichlet(np.ones(7), size=(3, 2)).astype(np.float32)
    v1_global, v1_local = dino_losses(student, targets, 0.1)
    v2_global, v2_local = dino_losses(student, targets, 0.1, min_local_pairs=1)
    np.testing.assert_allclose(v2_global, v1_global * 2 / 3, rtol=1e-6)
    assert v1_local == v2_local == 0


@pytest.mark.parametrize(("views", "min_local_pairs"), [(4, 0), (2, 0), (2, 1)])
def test_kl_is_the_mean_over_all_pairs_of_different_views(views, min_local_pairs):
    rng = np.random.default_rng(5)
    student = rng.normal(size=(3, views, 7)).astype(np.float32)
    teacher = rng.normal(size=(3, 2, 7)).astype(np.float32)
    objective = DinoObjective(
        "dino", 7, 0.1, Constant(0.05), Center(0.9), min_local_pairs=min_local_pairs
    )
    outcome, _ = run(objective, {"cls": student}, {"cls": teacher}, {}, objective.init())
    log_targets, log_predictions = log_softmax(teacher / 0.05), log_softmax(student / 0.1)
    pairs = [
        (np.exp(log_targets[:, i]) * (log_targets[:, i] - log_predictions[:, j])).sum(-1).mean()
        for i in range(2)
        for j in range(views)
        if i != j
    ]
    np.testing.assert_allclose(outcome.metrics["kl"], np.mean(pairs), rtol=1e-5)


def test_losses_equal_official_dinov3(golden):
    """The recorded losses are means over 2 x 4 pairs and over the 2 pairs of different views."""
    arrays = golden("v3/losses")
    views = [arrays["dino/student_global"], arrays["dino/student_local"]]
    student = np.concatenate(views).swapaxes(0, 1)
    targets = arrays["dino/teacher_probs"].swapaxes(0, 1)
    of_global, of_local = dino_losses(jnp.asarray(student), jnp.asarray(targets), 0.1)
    np.testing.assert_allclose(
        of_global * 10 / 2, arrays["dino/loss_global_ignore_diag"], rtol=1e-6
    )
    np.testing.assert_allclose(of_local * 10 / 8, arrays["dino/loss_local"], rtol=1e-6)


def test_the_weight_of_local_pairs_has_a_schedule():
    context = Context("student", {"dino": 7}, {"dino": "cls"}, total_steps=40, steps_per_epoch=10)
    parts = {"local_weight": PartsConfig(1.0, 1.0, 0.5, warmup_epochs=1.0, cosine_epochs=1.0)}
    objective = build("config.objectives.dino", Config(parts=parts), context)
    rng = np.random.default_rng(0)
    student = {"cls": rng.normal(size=(3, 4, 7)).astype(np.float32)}
    teacher = {"cls": student["cls"][:, :2]}
    outcomes = {
        step: run(objective, student, teacher, {}, objective.init(), step)[0] for step in (0, 19)
    }
    for step, weight in ((0, 1.0), (19, 0.5)):
        metrics = outcomes[step].metrics
        expected = metrics["global_loss"] + weight * metrics["local_loss"]
        np.testing.assert_allclose(outcomes[step].loss, expected, rtol=1e-6)
        np.testing.assert_allclose(metrics["local_weight"], weight, rtol=1e-6)
    kl = [float(outcome.metrics["kl"]) for outcome in outcomes.values()]
    np.testing.assert_allclose(kl[0], kl[1], rtol=1e-6)  # of all pairs alike


def test_a_temperature_in_parts_stays_above_0():
    context = Context("student", {"dino": 7}, {"dino": "cls"}, total_steps=40, steps_per_epoch=10)
    parts = {"teacher_temperature": PartsConfig(0.0, 0.07, 0.07)}
    with pytest.raises(ValueError, match=r"teacher_temperature must stay above 0"):
        build("config.objectives.dino", Config(parts=parts), context)
