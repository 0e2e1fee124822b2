"""Targets against recorded outputs of the official code and plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dino_jax.objectives.centering import (
    Center,
    Sinkhorn,
    describe_targets,
    entropy,
    update_center,
)

make_targets = jax.jit(lambda centering, *inputs: centering.targets(*inputs), static_argnums=0)


def plain_sinkhorn(logits, temperature, iterations):
    """SwAV's algorithm on the matrix itself."""
    q = np.exp(np.asarray(logits, np.float64) / temperature)
    q *= len(q) / q.sum()
    for _ in range(iterations):
        q *= len(q) / q.shape[1] / q.sum(axis=0)
        q /= q.sum(axis=1, keepdims=True)
    return q


def test_two_calls_of_the_center_equal_the_official_lazy_update(golden):
    arrays = golden("v2/b_losses")
    centering, state = Center(0.9), {"center": jnp.asarray(arrays["dino/center0"][0])}
    for call in (1, 2):
        logits = arrays[f"dino/teacher_logits_{call}"]
        targets, state = make_targets(centering, logits, state, float(arrays["dino/teacher_temp"]))
        wanted = arrays[f"dino/probs_centering_{call}"]
        np.testing.assert_allclose(targets, wanted, rtol=0, atol=1e-6)
        wanted = arrays[f"dino/center_after_{call}"][0]
        np.testing.assert_allclose(state["center"], wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_sinkhorn_equals_official(golden, iterations):
    arrays = golden("v2/b_losses")
    logits, temperature = arrays["dino/teacher_logits_1"], float(arrays["dino/teacher_temp"])
    got = make_targets(Sinkhorn(iterations), logits, {}, temperature)[0]
    wanted = arrays[f"dino/probs_sinkhorn_it{iterations}"]
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_padding_of_patch_logits_changes_neither_targets_nor_center(golden):
    arrays = golden("v2/b_losses")
    logits, temperature = arrays["ibot/teacher_logits"], float(arrays["dino/teacher_temp"])
    padded = np.full((4, 11, 64), 7.0, np.float32)  # four groups, 7 places are padding
    valid = np.ones((4, 11), bool)
    valid[1, 6:] = valid[3, 9:] = False
    padded[valid] = logits
    center = {"center": jnp.asarray(arrays["ibot/center0"][0, 0])}

    targets, state = make_targets(Center(0.9), padded, center, temperature, valid)
    wanted = arrays["ibot/probs_centering"]
    np.testing.assert_allclose(targets[valid], wanted, rtol=1e-5, atol=1e-6)
    wanted = arrays["ibot/center_after_1"][0, 0]
    np.testing.assert_allclose(state["center"], wanted, rtol=0, atol=1e-6)

    targets, state = make_targets(Sinkhorn(), padded, {}, temperature, valid)
    np.testing.assert_allclose(targets[valid], arrays["ibot/probs_sinkhorn"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(targets[~valid], 0)
    assert state == {}


def test_sinkhorn_of_logits_that_overflow_when_exponentiated_is_that_of_float64():
    logits = np.random.default_rng(0).normal(scale=6, size=(5, 2, 16)).astype(np.float32)
    assert logits.max() / 0.04 > np.log(np.finfo(np.float32).max)
    got = make_targets(Sinkhorn(3), logits, {}, 0.04)[0]
    wanted = plain_sinkhorn(logits.reshape(10, 16), 0.04, 3).reshape(5, 2, 16)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4)


def test_sinkhorn_spreads_samples_over_prototypes():
    favourite = np.array([5, 0, 0, 0], np.float32)
    logits = np.random.default_rng(1).normal(size=(64, 4)).astype(np.float32) + favourite
    targets = make_targets(Sinkhorn(20), logits, {}, 0.5)[0]
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(targets.sum(axis=0), 16, rtol=1e-3)


def test_no_valid_sample_leaves_the_center_and_gives_finite_targets():
    logits, valid = jnp.ones((2, 3, 4)), jnp.zeros((2, 3), bool)
    state = {"center": jnp.arange(4.0)}
    targets, moved = make_targets(Center(0.9), logits, state, 0.1, valid)
    np.testing.assert_array_equal(moved["center"], state["center"])
    assert np.isfinite(targets).all()
    np.testing.assert_array_equal(make_targets(Sinkhorn(), logits, {}, 0.1, valid)[0], 0)


@pytest.mark.parametrize("centering", [Center(0.9), Sinkhorn()])
def test_targets_have_no_gradient(centering):
    logits = jax.random.normal(jax.random.key(0), (3, 2, 8))

    @jax.jit
    def first_target(logits):
        return make_targets(centering, logits, centering.init(8), 0.1)[0][0, 0, 0]

    np.testing.assert_array_equal(jax.grad(first_target)(logits), 0)


def test_center_moves_toward_batch_mean():
    logits = np.random.default_rng(1).normal(size=(5, 2, 6)).astype(np.float32)
    center = np.arange(6, dtype=np.float32)
    expected = 0.9 * center + 0.1 * logits.reshape(10, 6).mean(0)
    np.testing.assert_allclose(update_center(center, logits, 0.9), expected, rtol=1e-6)


def test_entropy_of_uniform_is_log_k_and_of_one_hot_zero():
    np.testing.assert_allclose(entropy(jnp.full((3, 256), 1 / 256)), np.log(256), rtol=1e-6)
    np.testing.assert_array_equal(entropy(jnp.eye(4)), np.zeros(4))


def test_entropies_of_targets_leave_out_padding():
    targets = jnp.asarray([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    alone = describe_targets(targets, jnp.asarray([True, True, False]))
    np.testing.assert_allclose(alone["teacher_entropy"], 0, atol=1e-7)
    np.testing.assert_allclose(alone["mean_teacher_entropy"], np.log(2), rtol=1e-6)
    np.testing.assert_allclose(
        describe_targets(targets)["teacher_entropy"], np.log(2) / 3, rtol=1e-6
    )


def test_prototypes_are_counted_by_the_largest_share_of_every_target():
    targets = np.random.default_rng(0).dirichlet(np.ones(5), size=(3, 4)).astype(np.float32)
    valid = np.array([[1, 1, 1, 0], [1, 0, 1, 1], [1, 1, 0, 1]], bool)
    counts = np.bincount(targets[valid].argmax(axis=-1), minlength=5)
    assert 1 < counts.max() < counts.sum()
    described = describe_targets(targets, valid)
    np.testing.assert_allclose(described["top_prototype_share"], counts.max() / 9, rtol=1e-6)
    assert described["used_prototypes"] == np.count_nonzero(counts)


def test_relative_entropies_are_shares_of_log_k():
    described = describe_targets(jnp.full((2, 3, 8), 1 / 8))
    for name in ("relative_teacher_entropy", "relative_mean_teacher_entropy"):
        np.testing.assert_allclose(described[name], 1, rtol=1e-6)


def test_the_center_describes_its_norm_and_sinkhorn_nothing():
    state = {"center": jnp.asarray([3.0, 4.0])}
    assert Center(0.9).describe(state) == {"center_norm": 5.0}
    assert Sinkhorn().describe({}) == {}
