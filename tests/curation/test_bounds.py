"""Skipped products change nothing, and devices find what NumPy finds."""

import subprocess
import sys

import numpy as np
import pytest

from dino_jax.curation.bounds import Bounds, motion_of
from dino_jax.curation.kmeans import lloyd, means_of, sums_of
from dino_jax.curation.nearest import centers_of, nearest, numpy_compare

ON_DEVICES = """
import jax, numpy as np
from dino_jax.curation.assign import MeshCompare, mesh_of_devices
from dino_jax.curation.nearest import centers_of, nearest
assert jax.device_count() == 4
rng = np.random.default_rng(0)
rows = rng.standard_normal((5000, 24))
rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
close = np.repeat(0.5 * rows[:7].astype(np.float64), 3, axis=0)
centers = centers_of(np.concatenate([close + 1e-8 * rng.standard_normal(close.shape), rows[:30]]))
asked = []
def compare(some, centers):
    found = on_mesh(some, centers)
    asked.append(found[1] - found[2])
    return found
on_mesh = MeshCompare(mesh_of_devices())
found = nearest(rows, centers, compare)
np.testing.assert_array_equal(found, nearest(rows.astype(np.float64), centers))
assert min(gap.min() for gap in asked) < 1e-7  # there were rows that float32 cannot tell
assert len(on_mesh._placed[0].sharding.device_set) == 4
"""


def blobs(n, d, k, seed):
    rng = np.random.default_rng(seed)
    rows = 2 * rng.standard_normal((k, d))[rng.integers(0, k, n)] + rng.standard_normal((n, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


@pytest.mark.parametrize("k", [1, 2, 40])
def test_bounds_give_every_iteration_of_lloyd(k):
    rows = blobs(3000, 16, 25, seed=0)
    asked = []

    def compare(some, centers):
        asked.append(len(some) * len(centers.vectors))
        return numpy_compare(some, centers)

    centroids = rows[:k].astype(np.float64)
    known = Bounds(rows, centers_of(centroids), compare)
    assignment = known.assignment
    for _ in range(12):
        before, was = centroids, assignment
        centroids = means_of(*sums_of(rows, was, k), before)
        centers = centers_of(centroids)
        changed = known.move(rows, centers, motion_of(before, centroids), compare)
        assignment = known.assignment
        np.testing.assert_array_equal(assignment, nearest(rows, centers))
        np.testing.assert_array_equal(changed, np.flatnonzero(assignment != was))
    np.testing.assert_array_equal(assignment, lloyd(rows, rows[:k], 12).assignment)
    assert sum(asked) < 0.7 * 13 * len(rows) * k  # and spares work


def test_four_devices_assign_as_float64_does():
    environment = {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": ":".join(sys.path),
    }
    command = [sys.executable, "-c", ON_DEVICES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
