"""Every number of the health metrics against a line of NumPy, on one and on four devices."""

import jax
import numpy as np
import pytest

from dino_jax.devices.sharding import batch_sharding, make_mesh
from dino_jax.step.health import (
    describe_agreement,
    describe_moments,
    describe_norms,
    effective_rank,
    measure_moments,
)
from tests.objectives.branches import as_outputs

IMAGES, VIEWS, DIM = 16, 2, 6


def draw_cls(seed, views=VIEWS):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(IMAGES, views, DIM)) + 0.5).astype(np.float32)


def place(devices, *arrays):
    mesh = make_mesh(1, jax.devices()[:devices])
    return jax.device_put(arrays, batch_sharding(mesh))


@pytest.mark.parametrize("devices", [1, 4])
def test_cosine_is_that_of_the_global_crops_of_both_networks(devices):
    student, teacher = draw_cls(0, views=5), draw_cls(1)
    described = jax.jit(
        lambda s, t: describe_agreement(
            as_outputs(s, global_views=VIEWS).of_group("global"), as_outputs(t)
        )
    )
    (got,) = described(*place(devices, student, teacher)).values()
    ours, theirs = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (student, teacher))
    np.testing.assert_allclose(got, np.mean(np.sum(ours[:, :VIEWS] * theirs, axis=-1)), rtol=1e-5)


@pytest.mark.parametrize("devices", [1, 4])
def test_rank_and_std_are_those_of_all_features_of_the_batch(devices):
    teacher = draw_cls(0)
    teacher[..., 3:] *= 0.01
    (placed,) = place(devices, teacher)
    moments = jax.jit(lambda cls: measure_moments(as_outputs(cls)))(placed)
    described = describe_moments(jax.device_get(moments))
    rows = teacher.reshape(-1, DIM).astype(np.float64)
    singular = np.linalg.svd(rows, compute_uv=False)
    shares = singular / singular.sum()
    wanted = np.exp(-np.sum(shares * np.log(shares)))
    np.testing.assert_allclose(described["health/effective_rank"], wanted, rtol=1e-4)
    wanted = np.mean(rows.std(axis=0)) / np.sqrt(np.mean(rows**2))
    np.testing.assert_allclose(described["health/feature_std"], wanted, rtol=1e-4)


def test_features_that_are_all_equal_have_rank_1_and_no_spread():
    cls = np.broadcast_to(draw_cls(0)[:1, :1], (IMAGES, VIEWS, DIM))
    described = describe_moments(jax.device_get(measure_moments(as_outputs(cls))))
    assert described["health/effective_rank"] == pytest.approx(1, abs=1e-3)
    assert described["health/feature_std"] < 1e-3


def test_the_effective_rank_of_equal_singular_values_is_their_number():
    second = np.diag([4.0, 4.0, 4.0, 0.0])
    np.testing.assert_allclose(effective_rank(second), 3, rtol=1e-12)
    # Singular values 3 and 1: exp of the entropy of (3/4, 1/4).
    wanted = np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    np.testing.assert_allclose(effective_rank(np.diag([9.0, 1.0])), wanted, rtol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_features_that_are_not_finite_or_all_zero_have_no_rank(bad):
    described = describe_moments({"mean": np.full(3, bad), "second": np.full((3, 3), bad)})
    assert np.isnan(list(described.values())).all()


def test_norms_are_by_module():
    rng = np.random.default_rng(0)
    shapes = {"backbone": [(3, 2), (4,)], "heads_dino": [(5, 5)]}
    tree = {
        module: [rng.normal(size=shape).astype(np.float32) for shape in each]
        for module, each in shapes.items()
    }
    described = jax.jit(describe_norms)({"grad": tree})
    assert described.keys() == {"norm/backbone/grad", "norm/heads_dino/grad"}
    for module, leaves in tree.items():
        wanted = np.linalg.norm(np.concatenate([leaf.ravel() for leaf in leaves]))
        np.testing.assert_allclose(described[f"norm/{module}/grad"], wanted, rtol=1e-6)
