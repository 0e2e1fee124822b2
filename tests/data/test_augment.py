"""The crops against recorded PIL outputs and torchvision's distributions."""

import dataclasses
import math

import numpy as np
import pytest
from PIL import Image

from dino_jax.data.augment import (
    CropConfig,
    CropParameters,
    apply_crop,
    sample_crop_parameters,
)

OFFICIAL = CropConfig(
    count=1,
    size=64,
    scale=(0.05, 0.4),
    ratio=(3 / 4, 4 / 3),
    flip=0.5,
    jitter=0.8,
    brightness=0.4,
    contrast=0.4,
    saturation=0.2,
    hue=0.1,
    grayscale=0.2,
    blur=0.5,
    blur_radius=(0.1, 2.0),
    solarize=0.2,
    solarize_threshold=128,
)
WHOLE = CropParameters(
    box=(0, 0, 80, 96), flip=False, jitter=(), grayscale=False, blur_radius=None, solarize=False
)
SAME_SIZE = dataclasses.replace(OFFICIAL, size=(96, 80))


def _apply(arrays, config=SAME_SIZE, **changes):
    image = Image.fromarray(arrays["img"])
    return apply_crop(image, dataclasses.replace(WHOLE, **changes), config)


def _sample(config, count, height=100, width=150, seed=0):
    rng = np.random.default_rng(seed)
    return [sample_crop_parameters(rng, config, height, width) for _ in range(count)]


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("brightness_1.3", {"jitter": (("brightness", 1.3),)}),
        ("contrast_0.7", {"jitter": (("contrast", 0.7),)}),
        ("saturation_1.15", {"jitter": (("saturation", 1.15),)}),
        ("hue_0.07", {"jitter": (("hue", 0.07),)}),
        ("hue_-0.07", {"jitter": (("hue", -0.07),)}),
        ("blur_0.1", {"blur_radius": 0.1}),
        ("blur_0.7", {"blur_radius": 0.7}),
        ("blur_1.0", {"blur_radius": 1.0}),
        ("blur_2.0", {"blur_radius": 2.0}),
        ("solarize", {"solarize": True}),
    ],
)
def test_every_operation_equals_the_recorded_one_bit_by_bit(golden, key, changes):
    arrays = golden("v1/aug_pil")
    np.testing.assert_array_equal(_apply(arrays, **changes), arrays[key])


def test_official_blur_with_its_recorded_radius_is_reproduced(golden):
    arrays = golden("v1/aug_pil")
    radius = float(arrays["official_GaussianBlur_radius_seed123"])
    expected = arrays["official_GaussianBlur_p1_seed123"]
    np.testing.assert_array_equal(_apply(arrays, blur_radius=radius), expected)


def test_grayscale_repeats_the_recorded_luma_in_three_channels(golden):
    arrays = golden("v1/aug_pil")
    expected = np.repeat(arrays["grayscale"][..., None], 3, axis=-1)
    np.testing.assert_array_equal(_apply(arrays, grayscale=True), expected)


@pytest.mark.parametrize(
    ("key", "box"),
    [("crop_resize", (7, 11, 57, 72)), ("crop_resize_up", (20, 30, 41, 47))],
)
def test_crop_and_resize_equal_the_recorded_ones_bit_by_bit(golden, key, box):
    arrays = golden("v1/aug_pil")
    np.testing.assert_array_equal(_apply(arrays, OFFICIAL, box=box), arrays[key])


def test_flip_mirrors_left_and_right(golden):
    arrays = golden("v1/aug_pil")
    np.testing.assert_array_equal(_apply(arrays, flip=True), arrays["img"][:, ::-1])


def test_operations_are_applied_in_the_order_of_the_official_code(golden):
    arrays = golden("v1/aug_pil")
    jitter = (("contrast", 0.7), ("brightness", 1.3))
    everything = _apply(
        arrays, flip=True, jitter=jitter, grayscale=True, blur_radius=1.0, solarize=True
    )
    step = {"img": arrays["img"]}
    for change in (
        {"flip": True},
        {"jitter": jitter[:1]},
        {"jitter": jitter[1:]},
        {"grayscale": True},
        {"blur_radius": 1.0},
        {"solarize": True},
    ):
        step = {"img": _apply(step, **change)}
    np.testing.assert_array_equal(everything, step["img"])


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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("flip", 1.5),
        ("scale", (0.0, 1.0)),
        ("scale", (0.9, 0.4)),
        ("ratio", (0.0, 1.0)),
        ("hue", 0.6),
        ("size", (0, 4)),
        ("count", -1),
        ("brightness", -0.1),
        ("blur_radius", (-1.0, 2.0)),
    ],
)
def test_values_out_of_range_are_named_in_the_error(name, value):
    with pytest.raises(ValueError, match=name):
        dataclasses.replace(OFFICIAL, **{name: value})
