"""Groups of like rows against recordings (tests/golden/README.md) and plain NumPy."""

from pathlib import Path

import numpy as np
import pytest

from dino_jax.curation.groups import (
    components,
    edges_between,
    edges_within,
    nearest_edges,
    semdedup,
    semdedup_order,
    star_groups,
)
from dino_jax.curation.nearest import centers_of, nearest_few

GOLDEN = Path(__file__).parents[1] / "golden/search"


@pytest.fixture(scope="module")
def recorded():
    with np.load(GOLDEN / "curation.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def vectors(recorded):
    return recorded["semdedup.vectors"]


def test_semdedup_sorts_the_furthest_first_as_recorded(recorded, vectors):
    order = semdedup_order(vectors, vectors.mean(axis=0))
    np.testing.assert_array_equal(order, recorded["semdedup.order_hard_first"])


@pytest.mark.parametrize("epsilon", ["0.001", "0.005", "0.01", "0.05", "0.1"])
def test_semdedup_removes_the_recorded_rows(recorded, vectors, epsilon):
    ordered = vectors[recorded["semdedup.order_hard_first"]]
    removed, partner, cosines = semdedup(ordered, float(epsilon))
    np.testing.assert_array_equal(removed, recorded[f"semdedup.removed_eps{epsilon}"])
    gone = np.flatnonzero(removed)
    assert (partner[gone] < gone).all()
    exact = (ordered[gone] * ordered[partner[gone]]).sum(axis=1)
    np.testing.assert_allclose(cosines[gone], exact, atol=1e-9)


def test_semdedup_refuses_rows_that_are_not_of_length_1(vectors):
    with pytest.raises(ValueError, match="vectors of length 1; got lengths 2 to 2"):
        semdedup(2 * vectors, 0.1)


@pytest.mark.parametrize("count", [2, 8, 64])
@pytest.mark.parametrize("threshold", ["0.6", "0.9", "0.99"])
def test_components_are_the_recorded_ones(recorded, vectors, count, threshold):
    edges = edges_within(np.arange(len(vectors)), vectors, count, float(threshold))
    found = components(edges, len(vectors))
    np.testing.assert_array_equal(found, recorded[f"components.k{count}_t{threshold}"])


@pytest.mark.parametrize("threshold", ["0.45", "0.9"])
def test_rows_like_an_evaluation_set_are_the_recorded_ones(recorded, vectors, threshold):
    numbers = np.arange(len(vectors))
    edges = edges_between(
        numbers[25:], vectors[25:], numbers[:25], vectors[:25], 1, float(threshold)
    )
    expected = recorded[f"relative_dedup.removed_t{threshold}"]
    np.testing.assert_array_equal(np.isin(numbers[25:], edges.rows), expected)


@pytest.mark.parametrize("count", [1, 4])
def test_the_nearest_of_seeds_are_the_recorded_ones(recorded, vectors, count):
    pool = centers_of(vectors[25:], cosine=True)
    found, _ = nearest_few(vectors[:25], pool, count)
    np.testing.assert_array_equal(found, recorded[f"retrieval.nearest{count}"])


def near_copies(n, d, seed):
    rng = np.random.default_rng(seed)
    base = rng.standard_normal((n, d))
    copies = base[: n // 3] + 0.05 * rng.standard_normal((n // 3, d))
    rows = np.concatenate([base, copies])
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def test_edges_of_cells_together_are_those_of_all_rows():
    rows = near_copies(300, 16, seed=1)
    numbers = np.arange(len(rows))
    whole = edges_within(numbers, rows, 5, 0.5)
    cells = [numbers[:250], numbers[150:], numbers[::2], np.r_[0:200, 300:400]]
    parts = [edges_within(cell, rows[cell], 5, 0.5) for cell in cells]
    parts.append(edges_within(numbers, rows, 5, 0.5))
    merged = nearest_edges(parts, 5)
    for one, other in zip(merged, whole, strict=True):
        np.testing.assert_array_equal(one, other)
    similar = rows.astype(np.float64) @ rows.T.astype(np.float64)
    np.fill_diagonal(similar, -1)
    expected = sum(min(5, int((line > 0.5).sum())) for line in similar)
    assert len(whole.rows) == expected


def test_stars_do_not_chain_and_components_do():
    angles = np.radians([0, 20, 40, 60, 180])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    edges = edges_within(np.arange(5), rows, 64, float(np.cos(np.radians(25))))
    assert components(edges, 5).tolist() == [0, 0, 0, 0, 4]
    assert star_groups(edges, 5).tolist() == [0, 0, 2, 2, 4]


def test_a_picture_is_no_copy_of_itself_and_no_rows_are_no_edges():
    rows = near_copies(3, 4, seed=2)[:1]
    assert len(edges_within(np.array([7]), rows, 3, -1.0).rows) == 0
    assert len(edges_within(np.zeros(0, int), rows[:0], 3, -1.0).rows) == 0
    assert star_groups(edges_within(np.array([0]), rows, 3, -1.0), 1).tolist() == [0]
