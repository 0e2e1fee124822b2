"""KoLeo against the recorded cases of the official code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dino_jax.objectives.base import Context
from dino_jax.objectives.koleo import Config, KoleoObjective, build, koleo_loss
from dino_jax.optim.schedules import Constant
from tests.objectives.branches import run

jit_koleo = jax.jit(koleo_loss)
jit_value_and_grad = jax.jit(jax.value_and_grad(koleo_loss))


@pytest.mark.parametrize("case", ["rand", "dup", "one", "two"])
def test_loss_and_gradient_equal_official(golden, case):
    arrays = golden("v2/b_losses")
    loss, grad = jit_value_and_grad(jnp.asarray(arrays[f"koleo/{case}/x"]))
    np.testing.assert_allclose(loss, arrays[f"koleo/{case}/loss"], rtol=1e-5)
    np.testing.assert_allclose(grad, arrays[f"koleo/{case}/grad"], rtol=0, atol=1e-6)


def test_many_equal_vectors_and_zero_vectors_give_a_finite_loss_and_no_gradient():
    equal = jnp.tile(jax.random.normal(jax.random.key(1), (8,)), (5, 1))
    for x in (equal, jnp.zeros((5, 8))):
        loss, grad = jit_value_and_grad(x)
        np.testing.assert_allclose(loss, -np.log(1e-8 * np.sqrt(8) + 1e-8), rtol=1e-6)
        np.testing.assert_array_equal(grad, 0)


def test_vectors_of_one_direction_but_other_lengths_give_finite_loss_and_gradient():
    loss, grad = jit_value_and_grad(jnp.ones((5, 8)).at[0].set(2.0))
    assert np.isfinite(loss) and np.isfinite(grad).all()


def make_tokens(images, dtype=jnp.float32):
    """cls tokens of three views for the student, of two for the teacher."""
    cls = jax.random.normal(jax.random.key(0), (images, 3, 8)).astype(dtype)
    return {"cls": cls}, {"cls": cls[:, :2]}


def test_neighbours_are_searched_in_groups_of_successive_images_of_one_view():
    student, teacher = make_tokens(6)
    cls = student["cls"]
    groups = [cls[start : start + 2, view] for start in (0, 2, 4) for view in (0, 1)]
    wanted = 2 * np.mean([jit_koleo(group) for group in groups])
    outcome, _ = run(KoleoObjective(Constant(0.1), group_size=2), student, teacher, {}, {})
    np.testing.assert_allclose(outcome.loss, wanted, rtol=1e-5)
    np.testing.assert_allclose(outcome.metrics["logged_loss"], 0.05 * wanted, rtol=1e-5)
    whole, _ = run(KoleoObjective(Constant(0.1), group_size=0), student, teacher, {}, {})
    wanted = jit_koleo(cls[:, 0]) + jit_koleo(cls[:, 1])
    np.testing.assert_allclose(whole.loss, wanted, rtol=1e-5)


def test_local_crops_get_no_gradient():
    _, grads = run(KoleoObjective(Constant(0.1), group_size=0), *make_tokens(4), {}, {})
    assert np.abs(grads["cls"][:, :2]).min() > 0
    np.testing.assert_array_equal(grads["cls"][:, 2], 0)


def test_bfloat16_features_are_compared_in_float32():
    student, teacher = make_tokens(4, jnp.bfloat16)
    outcome, _ = run(KoleoObjective(Constant(0.1), group_size=4), student, teacher, {}, {})
    exact = np.asarray(student["cls"], np.float32)
    wanted = jit_koleo(exact[:, 0]) + jit_koleo(exact[:, 1])
    np.testing.assert_allclose(outcome.loss, wanted, rtol=1e-5)


def test_loss_equals_official_dinov3(golden):
    arrays = golden("v3/losses")
    np.testing.assert_allclose(jit_koleo(arrays["koleo/x"]), arrays["koleo/plain"], rtol=1e-6)


@pytest.mark.parametrize("neighbors", [1, 2, 5])
def test_several_neighbors_give_the_mean_over_all_of_them(neighbors):
    x = np.random.default_rng(0).normal(size=(3, 8, 16)).astype(np.float32)
    unit = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=-1, keepdims=True)
    logs = []
    for group in unit:
        for i, vector in enumerate(group):
            similarity = group @ vector
            similarity[i] = -1.0
            for j in np.argsort(-similarity)[:neighbors]:
                logs.append(np.log(np.linalg.norm(vector - group[j] + 1e-8) + 1e-8))
    loss = jax.jit(koleo_loss, static_argnums=1)(jnp.asarray(x), neighbors)
    np.testing.assert_allclose(loss, -np.mean(logs), rtol=2e-6)


def test_a_group_needs_enough_images_for_its_neighbors():
    context = Context("student", {}, {}, total_steps=1, steps_per_epoch=1)
    with pytest.raises(ValueError, match=r"koleo\.neighbors \(4\) must be at most"):
        build("config.objectives.koleo", Config(neighbors=4, group_size=2), context)
    assert KoleoObjective(Constant(0.1), 0, neighbors=3).needs.images == 3
