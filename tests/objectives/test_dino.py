"""The DINO objective against recorded outputs of the official code and a plain double loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dino_jax.objectives.base import Branch
from dino_jax.objectives.centering import entropy, update_center
from dino_jax.objectives.dino import DinoObjective, dino_loss
from dino_jax.schedules import TeacherTemperature


def log_softmax(x):
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def image_major(x, images):
    """The official code stacks crop after crop; ours keeps the views of an image together."""
    return x.reshape(-1, images, x.shape[-1]).transpose(1, 0, 2)


def as_branch(logits):
    """A branch whose features already are the logits."""
    views = tuple({"cls": logits[:, view]} for view in range(logits.shape[1]))
    return Branch(views, lambda head, x: x)


def test_loss_center_and_gradients_equal_official_over_five_steps(golden):
    arrays = golden("v1/dino_loss_mc10")
    steps_per_epoch = 10
    objective = DinoObjective(
        head="dino",
        prototypes=512,
        student_temperature=0.1,
        teacher_temperature=TeacherTemperature(0.04, 0.07, 3, steps_per_epoch),
        center_momentum=0.9,
    )
    state = objective.init()
    for index, epoch in enumerate(arrays["epochs"]):
        student = image_major(arrays[f"student_{index}"], 4)
        teacher = image_major(arrays[f"teacher_{index}"], 4)

        def loss_fn(student, teacher=teacher, state=state, epoch=epoch):
            step = jnp.asarray(int(epoch) * steps_per_epoch)
            outcome = objective(as_branch(student), as_branch(teacher), {}, state, step)
            return outcome.loss, outcome

        grads, outcome = jax.grad(loss_fn, has_aux=True)(jnp.asarray(student))
        np.testing.assert_allclose(outcome.loss, arrays[f"loss_{index}"], rtol=0, atol=1e-5)
        state = outcome.state
        np.testing.assert_allclose(state["center"], arrays[f"center_{index}"][0], rtol=0, atol=1e-5)
        official = arrays[f"grad_student_{index}"]
        if official.size:
            np.testing.assert_allclose(grads, image_major(official, 4), rtol=0, atol=1e-6)


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
    np.testing.assert_allclose(dino_loss(student, targets, 0.1), np.mean(pairs), rtol=1e-5)


def test_no_array_is_made_per_pair():
    images, views, teachers, prototypes = 4, 10, 2, 512
    shapes = (
        jax.ShapeDtypeStruct((images, views, prototypes), jnp.float32),
        jax.ShapeDtypeStruct((images, teachers, prototypes), jnp.float32),
    )
    jaxpr = jax.make_jaxpr(lambda s, t: dino_loss(s, t, 0.1))(*shapes)
    largest = max(
        variable.aval.size for equation in jaxpr.jaxpr.eqns for variable in equation.outvars
    )
    assert largest <= images * views * prototypes


def test_center_moves_toward_batch_mean():
    logits = np.random.default_rng(1).normal(size=(5, 2, 6)).astype(np.float32)
    center = np.arange(6, dtype=np.float32)
    expected = 0.9 * center + 0.1 * logits.reshape(10, 6).mean(0)
    np.testing.assert_allclose(update_center(center, logits, 0.9), expected, rtol=1e-6)


def test_entropy_of_uniform_is_log_k_and_of_one_hot_zero():
    np.testing.assert_allclose(entropy(jnp.full((3, 256), 1 / 256)), np.log(256), rtol=1e-6)
    np.testing.assert_array_equal(entropy(jnp.eye(4)), np.zeros(4))


def test_teacher_gets_no_gradient():
    objective = DinoObjective("dino", 8, 0.1, lambda step: jnp.float32(0.04), 0.9)
    logits = jax.random.normal(jax.random.key(0), (2, 2, 8))

    def loss(teacher):
        state = objective.init()
        return objective(as_branch(logits), as_branch(teacher), {}, state, jnp.asarray(0)).loss

    np.testing.assert_array_equal(jax.grad(loss)(logits), np.zeros((2, 2, 8)))
