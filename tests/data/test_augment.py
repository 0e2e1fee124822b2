"""The sampled parameters against torchvision's distributions."""

import dataclasses
import math

import numpy as np
import pytest

from dino_jax.data.augment import sample_crop_parameters, sample_same_box
from tests.crops import OFFICIAL


def _sample(config, count, height=100, width=150, seed=0):
    rng = np.random.default_rng(seed)
    return [sample_crop_parameters(rng, config, height, width) for _ in range(count)]


def _torchvision_box(random, height, width, scale, ratio):
    """RandomResizedCrop.get_params with the draws of another generator, for its distribution."""
    for _ in range(10):
        area = height * width * random.uniform(*scale)
        aspect = math.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = random.integers(height - h + 1), random.integers(width - w + 1)
            return left, top, left + w, top + h
    raise AssertionError("none of ten tries has fitted")


def test_boxes_have_the_distribution_of_random_resized_crop():
    count = 4000
    ours = np.array([p.box for p in _sample(OFFICIAL, count)], float)
    random = np.random.default_rng(1)
    args = (100, 150, OFFICIAL.scale, OFFICIAL.ratio)
    theirs = np.array([_torchvision_box(random, *args) for _ in range(count)], float)
    for column in range(4):
        grid = np.arange(151)
        ours_cdf = np.searchsorted(np.sort(ours[:, column]), grid, "right") / count
        theirs_cdf = np.searchsorted(np.sort(theirs[:, column]), grid, "right") / count
        # Two-sample Kolmogorov-Smirnov bound at a level of 1e-4: 2.23 sqrt(2 / n).
        assert np.abs(ours_cdf - theirs_cdf).max() < 2.23 * math.sqrt(2 / count)


def test_boxes_stay_inside_the_image_and_reach_its_borders():
    boxes = np.array([p.box for p in _sample(OFFICIAL, 3000, height=20, width=9)])
    assert boxes[:, :2].min() == 0
    assert boxes[:, 2].max() == 9
    assert boxes[:, 3].max() == 20
    assert (boxes[:, 2] > boxes[:, 0]).all()
    assert (boxes[:, 3] > boxes[:, 1]).all()


def test_a_too_wide_image_gets_the_central_box_of_the_largest_ratio():
    config = dataclasses.replace(OFFICIAL, scale=(1.0, 1.0))
    for parameters in _sample(config, 20, height=30, width=400):
        assert parameters.box == (180, 0, 220, 30)


def test_a_too_tall_image_gets_the_central_box_of_the_smallest_ratio():
    config = dataclasses.replace(OFFICIAL, scale=(1.0, 1.0))
    for parameters in _sample(config, 20, height=400, width=30):
        assert parameters.box == (0, 180, 30, 220)


def test_a_one_pixel_image_is_cropped_whole():
    assert {p.box for p in _sample(OFFICIAL, 50, height=1, width=1)} == {(0, 0, 1, 1)}


def test_decisions_have_the_configured_probabilities():
    count = 4000
    samples = _sample(OFFICIAL, count)
    decisions = [
        (p.flip, bool(p.jitter), p.grayscale, p.blur_radius is not None, p.solarize)
        for p in samples
    ]
    # Four standard errors of the widest, p = 0.5.
    np.testing.assert_allclose(
        np.mean(decisions, axis=0), [0.5, 0.8, 0.2, 0.5, 0.2], atol=2 / math.sqrt(count)
    )


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("brightness", 0.6, 1.4),
        ("contrast", 0.6, 1.4),
        ("saturation", 0.8, 1.2),
        ("hue", -0.1, 0.1),
    ],
)
def test_jitter_factors_are_uniform(name, low, high):
    factors = np.sort([dict(p.jitter)[name] for p in _sample(OFFICIAL, 4000) if p.jitter])
    expected = np.linspace(low, high, len(factors))
    tolerance = 2.3 * (high - low) / math.sqrt(len(factors))  # Kolmogorov, level 5e-5
    np.testing.assert_allclose(factors, expected, atol=tolerance)


def test_blur_radii_are_uniform():
    radii = [p.blur_radius for p in _sample(OFFICIAL, 4000)]
    radii = np.sort([radius for radius in radii if radius is not None])
    tolerance = 2.3 * 1.9 / math.sqrt(len(radii))
    np.testing.assert_allclose(radii, np.linspace(0.1, 2.0, len(radii)), atol=tolerance)


def test_all_24_jitter_orders_are_equally_likely():
    orders = [tuple(name for name, _ in p.jitter) for p in _sample(OFFICIAL, 6000) if p.jitter]
    _, counts = np.unique(orders, axis=0, return_counts=True)
    expected = len(orders) / 24
    assert len(counts) == 24
    # 99.99 % quantile of chi-squared with 23 degrees of freedom.
    assert ((counts - expected) ** 2 / expected).sum() < 59.0


def test_jitter_of_strength_zero_is_left_out():
    config = dataclasses.replace(OFFICIAL, jitter=1.0, brightness=0.0, hue=0.0)
    names = {frozenset(name for name, _ in p.jitter) for p in _sample(config, 20)}
    assert names == {frozenset({"contrast", "saturation"})}


def test_changing_one_probability_changes_no_other_parameter():
    without = _sample(dataclasses.replace(OFFICIAL, jitter=0.0, blur=0.0), 50)
    for ours, other in zip(_sample(OFFICIAL, 50), without, strict=True):
        assert dataclasses.replace(ours, jitter=(), blur_radius=None) == other


def test_a_crop_with_the_box_of_another_draws_only_what_recolors_it():
    (other,) = _sample(OFFICIAL, 1)
    rng = np.random.default_rng(3)
    crops = [sample_same_box(rng, OFFICIAL, other) for _ in range(50)]
    assert {(crop.box, crop.flip) for crop in crops} == {(other.box, other.flip)}
    assert len({crop.grayscale for crop in crops}) == len({crop.solarize for crop in crops}) == 2
    assert len({crop.blur_radius for crop in crops}) > 10
    again = np.random.default_rng(3)
    again.random(50 * 13)
    assert rng.random() == again.random()
