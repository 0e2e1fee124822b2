"""Mixtures of sources by weight."""

import pickle
from collections import Counter

import numpy as np
import pytest
from ml_collections import ConfigDict

from dino_jax.data.sources import MixtureSource, build_source


class _Source:
    def __init__(self, size, class_names=()):
        self.size, self.class_names = size, tuple(class_names)

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        label = index % len(self.class_names) if self.class_names else -1
        return {"image": bytes([index]), "label": label, "name": str(index)}

    def name(self, index):
        return f"file {index}"


def _mixture(sizes, weights):
    names = [f"s{index}" for index in range(len(sizes))]
    sources = {name: _Source(size) for name, size in zip(names, sizes, strict=True)}
    return MixtureSource(sources, dict(zip(names, weights, strict=True)))


def _shown(mixture):
    return Counter(mixture[index]["name"] for index in range(len(mixture)))


@pytest.mark.parametrize(
    ("sizes", "weights"), [((10, 90), (0.5, 0.5)), ((7, 5, 30), (3, 1, 2)), ((50, 50), (1, 4))]
)
def test_every_image_is_shown_and_the_shares_follow_the_weights(sizes, weights):
    shown = _shown(_mixture(sizes, weights))
    total = sum(shown.values())
    for part, (size, weight) in enumerate(zip(sizes, weights, strict=True)):
        counts = [shown[f"s{part}/{index}"] for index in range(size)]
        assert min(counts) >= 1
        assert max(counts) - min(counts) <= 1
        assert sum(counts) / total == pytest.approx(weight / sum(weights), abs=1 / total)


def test_the_source_that_is_largest_for_its_weight_is_shown_once():
    mixture = _mixture((10, 90), (1, 3))
    assert len(mixture) == 120
    assert {_shown(mixture)[f"s1/{index}"] for index in range(90)} == {1}
    assert {_shown(mixture)[f"s0/{index}"] for index in range(10)} == {3}


def test_what_is_left_after_whole_passes_is_spread_over_the_source():
    shown = _shown(_mixture((8, 10), (1, 1)))
    assert [shown[f"s0/{index}"] for index in range(8)] == [2, 1, 1, 1, 2, 1, 1, 1]


def test_only_the_ratio_of_the_weights_counts():
    first, second = _mixture((7, 12), (1, 2)), _mixture((7, 12), (50, 100))
    assert [first[i] for i in range(len(first))] == [second[i] for i in range(len(second))]


def test_classes_of_equal_name_are_one_class():
    sources = {"a": _Source(2, ("cat", "dog")), "b": _Source(2, ("emu", "cat")), "c": _Source(2)}
    mixture = MixtureSource(sources, {"a": 1, "b": 1, "c": 1})
    assert mixture.class_names == ("cat", "dog", "emu")
    assert [mixture[index]["label"] for index in range(6)] == [0, 1, 2, 0, -1, -1]
    assert mixture.name(3) == "b: file 1"


def test_a_mixture_survives_pickling():
    mixture = _mixture((3, 4), (1, 2))
    assert pickle.loads(pickle.dumps(mixture))[5] == mixture[5]


def test_indices_outside_are_refused():
    mixture = _mixture((3, 4), (1, 1))
    for index in (-1, len(mixture)):
        with pytest.raises(IndexError):
            mixture[index]


def test_bad_weights_and_empty_mixtures_are_refused():
    for weight in (0, -1, np.inf, np.nan):
        with pytest.raises(ValueError, match="weight of 's0' must be positive"):
            _mixture((3, 4), (weight, 1))
    with pytest.raises(ValueError, match="needs 'sources'"):
        build_source(ConfigDict({"kind": "mixture", "sources": {}}))


def test_a_config_mixes_sources_in_the_order_of_their_names():
    digits = {"kind": "digits", "weight": 1.0}
    config = {"train": {**digits, "split": "train"}, "test": {**digits, "split": "test"}}
    mixture = build_source(ConfigDict({"kind": "mixture", "sources": config}))
    assert len(mixture) == 2 * 1438
    assert mixture[1438]["name"] == "train/0"
    assert mixture.class_names == tuple("0123456789")
