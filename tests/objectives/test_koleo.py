"""KoLeo against the recorded cases of the official code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dino_jax.objectives.koleo import KoleoObjective, koleo_loss
from tests.objectives.branches import as_branch


@pytest.mark.parametrize("case", ["rand", "dup", "one", "two"])
def test_loss_and_gradient_equal_official(golden, case):
    arrays = golden("v2/b_losses")
    loss, grad = jax.value_and_grad(koleo_loss)(jnp.asarray(arrays[f"koleo/{case}/x"]))
    np.testing.assert_allclose(loss, arrays[f"koleo/{case}/loss"], rtol=1e-5)
    np.testing.assert_allclose(grad, arrays[f"koleo/{case}/grad"], rtol=0, atol=1e-6)


def test_many_equal_vectors_and_the_zero_vector_give_finite_loss_and_gradient():
    for x in (jnp.ones((5, 8)), jnp.ones((5, 8)).at[0].set(2.0), jnp.zeros((3, 8))):
        loss, grad = jax.value_and_grad(koleo_loss)(x)
        assert np.isfinite(loss) and np.isfinite(grad).all()


def test_neighbours_are_searched_in_groups_of_successive_images_of_one_view():
    cls = jax.random.normal(jax.random.key(0), (6, 3, 8))
    student, teacher = as_branch(cls), as_branch(cls[:, :2])
    groups = [cls[start : start + 2, view] for start in (0, 2, 4) for view in (0, 1)]
    wanted = 2 * np.mean([koleo_loss(group) for group in groups])
    outcome = KoleoObjective(weight=0.1, group_size=2)(student, teacher, {}, {}, jnp.asarray(0))
    np.testing.assert_allclose(outcome.loss, wanted, rtol=1e-5)
    np.testing.assert_allclose(outcome.metrics["logged_loss"], 0.05 * wanted, rtol=1e-5)
    whole = KoleoObjective(weight=0.1, group_size=0)(student, teacher, {}, {}, jnp.asarray(0))
    wanted = koleo_loss(cls[:, 0]) + koleo_loss(cls[:, 1])
    np.testing.assert_allclose(whole.loss, wanted, rtol=1e-5)


def test_local_crops_get_no_gradient():
    cls = jax.random.normal(jax.random.key(0), (4, 3, 8))
    objective = KoleoObjective(weight=0.1, group_size=0)

    def loss(cls):
        teacher = as_branch(cls[:, :2])
        return objective(as_branch(cls), teacher, {}, {}, jnp.asarray(0)).loss

    grads = jax.grad(loss)(cls)
    assert np.abs(grads[:, :2]).min() > 0
    np.testing.assert_array_equal(grads[:, 2], 0)


def test_bfloat16_features_are_compared_in_float32():
    cls = jax.random.normal(jax.random.key(0), (4, 2, 8)).astype(jnp.bfloat16)
    branch = as_branch(cls)
    outcome = KoleoObjective(weight=0.1, group_size=4)(branch, branch, {}, {}, jnp.asarray(0))
    exact = np.asarray(cls, np.float32)
    np.testing.assert_allclose(
        outcome.loss, koleo_loss(exact[:, 0]) + koleo_loss(exact[:, 1]), rtol=1e-5
    )
