"""Water filling and the way down the tree against recordings (tests/golden/README.md)."""

import json
from pathlib import Path

import numpy as np
import pytest

from dino_jax.curation.water_filling import (
    NEAREST,
    RANDOM,
    draw_members,
    grow,
    share_out,
    water_fill,
    water_level,
)

GOLDEN = Path(__file__).parents[1] / "golden/search"
VALUES = json.loads((GOLDEN / "curation_values.json").read_text())
TREES = ("blobs_plain", "rings_plain", "rings_resampled")


@pytest.fixture(scope="module")
def recorded():
    with np.load(GOLDEN / "curation.npz") as file:
        return dict(file)


def tree_of(recorded, name):
    levels = 3 if name.startswith("blobs") else 2
    keys = [f"{name}.level{level}" for level in range(1, levels + 1)]
    assignments = [recorded[f"{key}.assignment"] for key in keys]
    return assignments, grow(assignments, [len(recorded[f"{key}.centroids"]) for key in keys])


@pytest.mark.parametrize("case", range(len(VALUES["water_filling"])))
def test_water_filling_is_the_recorded_one(case):
    one = VALUES["water_filling"][case]
    sizes = np.array(one["sizes"]) * one["multiplier"]
    assert water_level(sizes, one["target"]) == one["cut"]
    shares = water_fill(sizes, one["target"], np.random.default_rng(case))
    assert sorted(shares.tolist()) == one["sorted_result"]
    assert shares.sum() == one["total"]
    assert (shares <= sizes).all()


def test_all_recorded_cases_are_there():
    assert len(VALUES["water_filling"]) == 60


@pytest.mark.parametrize("name", TREES)
def test_sizes_are_the_recorded_ones(recorded, name):
    _, tree = tree_of(recorded, name)
    for level, sizes in enumerate(tree.sizes, start=1):
        np.testing.assert_array_equal(sizes, recorded[f"{name}.flat_size{level}"])


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("multiplier", [1, 3])
@pytest.mark.parametrize("target", [50, 100, 300, 2000])
def test_the_tree_gives_as_many_as_recorded(recorded, name, target, multiplier):
    assignments, tree = tree_of(recorded, name)
    shares = share_out(tree, target, multiplier, seed=0)
    members = [np.flatnonzero(assignments[0] == one) for one in range(len(shares))]
    drawn = np.concatenate(
        [
            draw_members(int(share), some, RANDOM, 0, one)
            for one, (share, some) in enumerate(zip(shares, members, strict=True))
        ]
    )
    key = f"{name}.sample_t{target}_m{multiplier}"
    assert len(drawn) == VALUES[key]["n"]
    top = assignments[0]
    for above in assignments[1:]:
        top = above[top]
    counts = np.bincount(top[drawn], minlength=len(tree.sizes[-1]))
    np.testing.assert_array_equal(np.sort(counts), recorded[f"{key}_top_counts_sorted"])
    assert np.bincount(drawn).max() <= multiplier


def test_whole_copies_come_first_then_the_nearest_or_any():
    members = np.array([7, 3, 9])  # nearest first
    assert draw_members(7, members, NEAREST, 0, 0).tolist() == [3, 3, 7, 7, 7, 9, 9]
    assert draw_members(2, members, NEAREST, 0, 0).tolist() == [3, 7]
    drawn = {tuple(draw_members(1, members, RANDOM, seed, 0)) for seed in range(40)}
    assert drawn == {(3,), (7,), (9,)}
    assert len(draw_members(0, np.zeros(0, int), RANDOM, 0, 0)) == 0


@pytest.mark.parametrize("sizes", [[5, 5, 5, 5], [0, 0], [0, 8, 0], []])
def test_equal_and_empty_clusters_work(sizes):
    sizes = np.array(sizes, np.int64)
    for target in range(25):
        shares = water_fill(sizes, target, np.random.default_rng(0))
        assert shares.sum() == min(target, sizes.sum())
        assert shares.max(initial=0) - shares[sizes > shares].min(initial=99) <= 1


def test_empty_clusters_above_the_first_level_work():
    assignments = [np.array([0, 0, 1, 3]), np.array([0, 0, 0, 4]), np.array([1, 1, 1, 1, 1])]
    tree = grow(assignments, [4, 5, 3])
    assert [sizes.tolist() for sizes in tree.sizes] == [[2, 1, 0, 1], [3, 0, 0, 0, 1], [0, 4, 0]]
    assert share_out(tree, 2, 1, seed=0).sum() == 2
    assert share_out(tree, 9, 1, seed=0).tolist() == [2, 1, 0, 1]
