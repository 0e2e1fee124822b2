"""J and F against sets of pixels."""

import math

import numpy as np
import pytest

from dino_jax.evaluation.mask_measures import (
    contour_accuracy,
    describe_object,
    find_boundary,
    region_similarity,
)

NOTHING = np.zeros((40, 60), bool)


def blob(seed: int) -> np.ndarray:
    rng, mask = np.random.default_rng(seed), NOTHING.copy()
    for _ in range(3):
        y, x = rng.integers(0, 30), rng.integers(0, 50)
        mask[y : y + rng.integers(5, 15), x : x + rng.integers(5, 15)] = True
    return mask


def plain_boundary(mask) -> set:
    height, width = mask.shape
    found = set()
    for y, x in np.ndindex(*mask.shape):
        others = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
        inside = [mask[v, u] for v, u in others if v < height and u < width]
        if any(other != mask[y, x] for other in inside):
            found.add((y, x))
    return found


def plain_contour_accuracy(predicted, truth, tolerance) -> float:
    radius = math.ceil(tolerance * math.sqrt(sum(n * n for n in truth.shape)))
    a, b = plain_boundary(predicted), plain_boundary(truth)

    def share(of, near):
        hits = [any((y - v) ** 2 + (x - u) ** 2 <= radius**2 for v, u in near) for y, x in of]
        return sum(hits) / len(hits)

    precision, recall = share(a, b), share(b, a)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def test_boundaries_lie_left_of_and_above_a_change():
    for seed in range(4):
        mask = blob(seed)
        assert set(zip(*np.nonzero(find_boundary(mask)), strict=True)) == plain_boundary(mask)


@pytest.mark.parametrize("seed", range(4))
def test_f_counts_boundary_pixels_near_the_other_boundary(seed):
    predicted, truth = blob(seed), blob(seed) ^ (blob(seed + 10) & blob(seed + 20))
    for tolerance in (0.008, 0.04):
        expected = plain_contour_accuracy(predicted, truth, tolerance)
        actual = contour_accuracy(predicted, truth, NOTHING, tolerance)
        assert actual == pytest.approx(expected, abs=1e-12)


def test_j_is_intersection_over_union():
    a, b = blob(0), blob(1)
    expected = len(set(zip(*np.nonzero(a & b), strict=True))) / np.count_nonzero(a + b)
    assert region_similarity(a, b, NOTHING) == pytest.approx(expected)
    assert region_similarity(a, b, a ^ b) == 1.0
    assert region_similarity(NOTHING, NOTHING, NOTHING) == 1.0
    assert region_similarity(a, NOTHING, NOTHING) == 0.0


def test_empty_masks_are_right_only_if_both_are_empty():
    assert contour_accuracy(NOTHING, NOTHING, NOTHING) == 1.0
    assert contour_accuracy(blob(0), NOTHING, NOTHING) == 0.0
    assert contour_accuracy(NOTHING, blob(0), NOTHING) == 0.0
    assert contour_accuracy(blob(0), NOTHING, blob(0)) == 1.0


def test_decay_is_what_is_lost_from_the_first_to_the_last_quarter():
    values = np.linspace(0.9, 0.1, 9)
    statistics = describe_object(values)
    assert statistics.mean == pytest.approx(0.5)
    assert statistics.recall == pytest.approx(4 / 9)
    # Quarters of frames 1 to 9 have the edges 1, 3, 5, 7, 9, which belong to both sides.
    assert statistics.decay == pytest.approx(values[:3].mean() - values[6:].mean())
    assert describe_object(np.array([0.6])) == (0.6, 1.0, 0.0)
