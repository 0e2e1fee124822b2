"""The weight between two models on made vectors whose best weight is known."""

import numpy as np
import pytest

from dino_jax.search.measures import measure
from dino_jax.search.mixture import at_weight, join
from dino_jax.search.sweep import WEIGHTS, lines_of_sweep, sweep

CLASSES, EACH, DIM = 60, 4, 16
LABELS = np.repeat(np.arange(CLASSES), EACH)


def seen(seed: int, noise: float) -> np.ndarray:
    """[n, DIM] what a model sees of photos of classes, with noise of its own."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(CLASSES, DIM))
    return centers[LABELS] + noise * rng.normal(size=(len(LABELS), DIM))


def measured(first: np.ndarray, second: np.ndarray):
    rows = join([first, second]).astype(np.float16)

    def score(weight: float):
        weighed = at_weight(rows, (DIM, DIM), weight)
        return measure(weighed, LABELS, weighed, LABELS, np.arange(len(LABELS)), (1,))

    return score


def test_two_that_know_different_things_are_best_together():
    first, second = seen(0, 1.6), seen(1, 1.6)
    found = sweep(measured(first, second), 500)
    assert 0.3 <= found["best"] <= 0.7
    assert found["range"][0] <= found["best"] <= found["range"][1]
    for alone in ("1.0", "0.0"):
        gain, low, high = found["gains"][alone]["recall@1"]
        assert 0 < low < gain < high
    units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second)]
    similar = 0.3 * units[0] @ units[0].T + 0.7 * units[1] @ units[1].T
    np.fill_diagonal(similar, -np.inf)
    recall = (LABELS[similar.argmax(axis=1)] == LABELS).mean()
    assert found["means"]["0.3"]["recall@1"] == pytest.approx(recall, abs=0.01)


def test_one_that_knows_nothing_gets_no_weight_and_no_gain():
    noise = np.random.default_rng(2).normal(size=(len(LABELS), DIM))
    found = sweep(measured(seen(0, 1.2), noise), 500)
    assert found["best"] >= 0.8 and found["range"][0] >= 0.6
    assert found["gains"]["1.0"]["recall@1"][1] <= 0 < found["gains"]["0.0"]["recall@1"][1]


def test_equal_weights_are_told_by_the_one_nearest_to_half():
    same = seen(0, 0.0)
    found = sweep(measured(same, same), 50)
    assert found["best"] == 0.5 and found["range"] == [0.5, 0.5]
    lines = lines_of_sweep(found, ("dino", "clip"))
    assert sum("<- best" in line for line in lines) == 1
    assert [line.split()[0] for line in lines[2:13]] == [str(weight) for weight in WEIGHTS]
    assert "dino alone" in lines[-4] and "clip alone" in lines[-1]
