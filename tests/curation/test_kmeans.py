"""k-means against recordings of ssl-data-curation (tests/golden/README.md) and plain NumPy."""

from pathlib import Path

import numpy as np
import pytest

from dino_jax.curation.kmeans import (
    Draws,
    choose_seeds,
    draw,
    inertia,
    kmeans,
    lloyd,
    nearest_members,
    sorted_members,
    sums_of,
    trials_of,
)
from dino_jax.curation.nearest import centers_of, nearest, nearest_few, squared_distances

GOLDEN = Path(__file__).parents[1] / "golden/search"
SETS = ("rings", "blobs")


@pytest.fixture(scope="module")
def recorded():
    with np.load(GOLDEN / "curation.npz") as file:
        return dict(file)


def unit_float16(n, d, seed):
    rows = np.random.default_rng(seed).standard_normal((n, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


@pytest.mark.parametrize("name", SETS)
def test_recorded_draws_choose_the_recorded_seeds(recorded, name):
    rows = recorded[name].astype(np.float64)
    draws = Draws(int(recorded[f"{name}.kpp_first"]), recorded[f"{name}.kpp_uniforms"])
    k = len(recorded[f"{name}.kpp_indices"])
    np.testing.assert_array_equal(choose_seeds(rows, k, draws), recorded[f"{name}.kpp_indices"])
    assert draws.uniforms.shape == (k - 1, trials_of(k))


@pytest.mark.parametrize("name", SETS)
def test_draws_come_in_the_recorded_order(recorded, name):
    uniforms = recorded[f"{name}.kpp_uniforms"]
    for seed in range(20):  # whichever seed recorded it, the order is: a row, then the uniforms
        rng, again = np.random.RandomState(seed), np.random.RandomState(seed)
        found = draw(rng, len(recorded[name]), len(uniforms) + 1)
        assert found.first == again.randint(len(recorded[name]))
        rows = [again.random_sample(uniforms.shape[1]) for _ in uniforms]
        np.testing.assert_array_equal(found.uniforms, rows)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("iterations", [0, 1, 2, 50])
def test_lloyd_follows_the_recording(recorded, name, iterations):
    rows = recorded[name].astype(np.float64)
    found = lloyd(rows, rows[recorded[f"{name}.kpp_indices"]], iterations)
    np.testing.assert_array_equal(found.assignment, recorded[f"{name}.assign_{iterations}"])
    if iterations:
        expected = recorded[f"{name}.centroids_{iterations}"]
        np.testing.assert_allclose(found.centroids, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", SETS)
def test_members_lie_as_recorded(recorded, name):
    rows = recorded[name].astype(np.float64)
    k = len(recorded[f"{name}.kpp_indices"])
    found = lloyd(rows, rows[recorded[f"{name}.kpp_indices"]], 50)
    distances = squared_distances(rows, centers_of(found.centroids), found.assignment)
    members = sorted_members(found.assignment, distances, k)
    np.testing.assert_array_equal(np.concatenate(members), recorded[f"{name}.sorted_values"])
    ends = np.cumsum([0, *map(len, members)])
    np.testing.assert_array_equal(ends, recorded[f"{name}.sorted_offsets"])
    np.testing.assert_array_equal(nearest_members(found, rows, 3), recorded[f"{name}.closest3"])


def test_an_empty_cluster_keeps_its_centroid_as_recorded(recorded):
    rows = recorded["blobs"].astype(np.float64)
    before = lloyd(rows, recorded["empty.init"], 0)
    np.testing.assert_array_equal(before.assignment, recorded["empty.assign"])
    found = lloyd(rows, recorded["empty.init"], 1)
    np.testing.assert_allclose(found.centroids, recorded["empty.centroids"], rtol=1e-12)
    empty = np.setdiff1d(np.arange(4), before.assignment)
    assert len(empty)
    np.testing.assert_array_equal(found.centroids[empty], recorded["empty.init"][empty])


def test_the_cosine_never_normalises_centroids_as_recorded(recorded):
    rows = recorded["blobs"] / np.linalg.norm(recorded["blobs"], axis=1, keepdims=True)
    rows = rows.astype(np.float64)  # of length 1 in float32
    found = lloyd(rows, rows[:6], 10, cosine=True)
    np.testing.assert_allclose(found.centroids, recorded["cos.centroids_10"], atol=1e-8)
    np.testing.assert_array_equal(found.assignment, recorded["cos.assign_10"])
    assert (np.linalg.norm(found.centroids, axis=1) < 0.97).all()


@pytest.mark.parametrize(
    "level",
    [
        f"{name}_{kind}.level{level}"
        for name, levels in (("rings", 2), ("blobs", 3))
        for kind in ("plain", "resampled")
        for level in range(1, levels + 1)
        if (name, kind) != ("blobs", "resampled")  # left out to save space
    ],
)
def test_recorded_levels_assign_to_the_nearest_centroid(recorded, level):
    head, number = level.rsplit("level", 1)
    below = f"{head}level{int(number) - 1}.centroids"
    rows = recorded[below] if number != "1" else recorded[level.split("_")[0]].astype(np.float64)
    found = nearest(rows, centers_of(recorded[f"{level}.centroids"]))
    np.testing.assert_array_equal(found, recorded[f"{level}.assignment"])


def test_the_first_level_of_a_plain_hierarchy_is_the_recorded_one(recorded):
    for name, k in (("blobs", 60), ("rings", 120)):
        rows = recorded[name].astype(np.float64)
        found = kmeans(rows, k, 50, np.random.RandomState(5))
        expected = recorded[f"{name}_plain.level1.centroids"]
        np.testing.assert_allclose(found.centroids, expected, rtol=1e-12, atol=1e-13)


def test_sums_of_float16_rows_do_not_depend_on_their_split():
    rows = unit_float16(5000, 24, seed=1)
    assignment = np.random.default_rng(2).integers(0, 7, len(rows))
    whole, counts = sums_of(rows, assignment, 7)
    order = np.random.default_rng(3).permutation(len(rows))
    parts = [sums_of(rows[some], assignment[some], 7) for some in np.array_split(order, 11)]
    np.testing.assert_array_equal(sum(sums for sums, _ in parts), whole)
    np.testing.assert_array_equal(sum(number for _, number in parts), counts)
    expected = [rows[assignment == one].astype(np.float64).sum(axis=0) for one in range(7)]
    np.testing.assert_allclose(whole, expected, rtol=1e-12)


def test_the_nearest_is_that_of_float64_where_float32_cannot_tell():
    rng = np.random.default_rng(4)
    rows = unit_float16(3000, 32, seed=4)
    close = rng.standard_normal((1, 32)) * 0.1
    centroids = np.concatenate([close + 1e-8 * rng.standard_normal((40, 32)), rows[:5]])
    products = rows.astype(np.float64) @ centroids.T
    score = products - np.square(centroids).sum(axis=1) / 2
    single = rows.astype(np.float32) @ centroids.T.astype(np.float32)
    single -= (np.square(centroids).sum(axis=1) / 2).astype(np.float32)
    assert (single.argmax(axis=1) != score.argmax(axis=1)).any()  # there is something to tell
    np.testing.assert_array_equal(nearest(rows, centers_of(centroids)), score.argmax(axis=1))
    few, values = nearest_few(rows, centers_of(centroids), 3)
    np.testing.assert_array_equal(few, np.argsort(-score, axis=1, kind="stable")[:, :3])
    np.testing.assert_allclose(values, -np.sort(-score, axis=1)[:, :3], rtol=1e-12)


def test_equal_centers_go_to_the_first():
    rows = unit_float16(100, 8, seed=5)
    assert (nearest(rows, centers_of(np.repeat(rows[:1], 5, axis=0))) == 0).all()


@pytest.mark.parametrize("k", [1, 6, 9])
def test_more_clusters_than_rows_and_equal_rows_work(k):
    rows = np.repeat(unit_float16(3, 8, seed=6), 2, axis=0)
    found = kmeans(rows, k, 5, np.random.RandomState(0))
    assert len(found.centroids) == min(k, 6)
    if k >= 3:  # a seed on each of the 3 different rows
        assert inertia(rows, found) == pytest.approx(0, abs=1e-12)
