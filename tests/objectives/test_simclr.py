"""NT-Xent against the recorded values, which two PyTorch libraries confirm up to the factor 2."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dino_jax.objectives.simclr import NORM_FLOOR, SimclrObjective, nt_xent
from dino_jax.objectives.sphere import to_sphere
from dino_jax.optim.schedules import Constant
from tests.objectives.branches import log_softmax, run


def objective(temperature=0.1):
    return SimclrObjective(Constant(1.0), temperature)


def recorded(arrays):
    """[8, 2, 12]: the recording has all first views, then all second ones."""
    return np.stack(np.split(arrays["hidden"], 2), axis=1)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_loss_and_gradient_equal_the_recorded_ones(golden, temperature):
    arrays = golden("ssl/s_losses")
    views, case = recorded(arrays), f"T{temperature}"
    student = {"cls": jnp.asarray(views)}
    outcome, grads = run(objective(temperature), student, student, {}, {})
    np.testing.assert_allclose(outcome.loss, arrays[f"{case}/loss"], rtol=1e-6)
    grad = np.concatenate(np.moveaxis(np.asarray(grads["cls"]), 1, 0))
    np.testing.assert_allclose(grad, arrays[f"{case}/grad"], rtol=0, atol=1e-6)
    for library in ("lightly", "solo"):
        mean = arrays[f"{case}/loss_mean_over_2N_{library}"]
        np.testing.assert_allclose(outcome.loss, 2 * mean, rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_logits_of_the_other_views_equal_the_recorded_ones(golden, temperature):
    arrays = golden("ssl/s_losses")
    a, b = (to_sphere(x, NORM_FLOOR) for x in np.moveaxis(recorded(arrays), 1, 0))
    logits = np.asarray(a @ b.T) / temperature
    np.testing.assert_allclose(logits, arrays[f"T{temperature}/logits_ab"], rtol=0, atol=1e-5)


def test_the_numbers_for_the_log_equal_numpy():
    x = np.random.default_rng(0).normal(size=(6, 2, 5)).astype(np.float32)
    outcome, _ = run(objective(), {"cls": x}, {"cls": x}, {}, {})
    unit = (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float64)
    a, b = unit[:, 0], unit[:, 1]
    both = np.concatenate([a, b])
    cosines = both @ both.T - 2 * np.eye(12)
    partner = np.roll(np.arange(12), 6)
    apart = [((a[i] - a[j]) ** 2).sum() for i in range(6) for j in range(6) if i != j]
    wanted = {
        "loss": -2 * np.mean(log_softmax(cosines / 0.1)[np.arange(12), partner]),
        "accuracy": np.mean(cosines.argmax(-1) == partner),
        "alignment": np.mean(((a - b) ** 2).sum(-1)),
        "uniformity": np.log(np.mean(np.exp(-2 * np.array(apart)))),
    }
    assert outcome.metrics.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(outcome.metrics[name], value, rtol=1e-5, atol=1e-6)


def test_three_views_are_the_mean_over_their_pairs():
    x = np.random.default_rng(1).normal(size=(5, 3, 4)).astype(np.float32)
    whole, _ = run(objective(), {"cls": x}, {"cls": x}, {}, {})
    pairs = [
        run(objective(), *[{"cls": x[:, list(pair)]}] * 2, {}, {})[0].loss
        for pair in ((0, 1), (0, 2), (1, 2))
    ]
    np.testing.assert_allclose(whole.loss, np.mean(pairs), rtol=1e-6)


def test_a_view_never_finds_itself():
    a, b = jnp.eye(3), jnp.roll(jnp.eye(3), 1, axis=0)  # nothing is more like a row than itself
    loss, accuracy = nt_xent(a, b, 0.01)
    assert accuracy == 0 and loss > 2 * 99


def test_equal_vectors_and_zero_vectors_give_the_loss_of_chance_and_finite_gradients():
    for x in (jnp.ones((4, 2, 3)), jnp.zeros((4, 2, 3))):
        outcome, grads = run(objective(), {"cls": x}, {"cls": x}, {}, {})
        np.testing.assert_allclose(outcome.loss, 2 * np.log(7), rtol=1e-6)
        assert np.isfinite(grads["cls"]).all()


def test_gradients_reach_both_views_through_all_candidates():
    x = np.random.default_rng(2).normal(size=(4, 2, 3)).astype(np.float32)
    grads = jax.grad(lambda x: nt_xent(x[:, 0], x[:, 1], 0.5)[0])(jnp.asarray(x))
    assert np.abs(grads).min() > 0
