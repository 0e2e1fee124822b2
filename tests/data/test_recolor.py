"""Every photometric operation against recorded outputs and against Pillow, bit by bit."""

import dataclasses

import numpy as np
import pytest
from PIL import Image, ImageFilter

from dino_jax.data.augment import CropParameters, sample_crop_parameters
from dino_jax.data.photometric import blur_taps, blur_weights, encode_photometric
from dino_jax.data.recolor import ONE, interleave_crops, recolor_crops
from tests import plain_augment
from tests.crops import OFFICIAL

CONFIG = dataclasses.replace(OFFICIAL, blur_radius=(0.0, 9.0))
NOTHING = CropParameters(
    box=(0, 0, 1, 1), flip=False, jitter=(), grayscale=False, blur_radius=None, solarize=False
)


def _recolor(image, parameters, config=CONFIG):
    photometric = encode_photometric([parameters], [config], blur_taps([config]))
    out = np.zeros((1, *image.shape), np.uint8)
    recolor_crops(image.transpose(2, 0, 1)[None].copy(), photometric, out)
    return out[0]


def _pillow(image, parameters, config=CONFIG):
    return plain_augment.recolor(Image.fromarray(image), parameters, config)


def _noise(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)


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
def test_every_operation_equals_the_recorded_one(golden, key, changes):
    arrays = golden("v1/aug_pil")
    parameters = dataclasses.replace(NOTHING, **changes)
    np.testing.assert_array_equal(_recolor(arrays["img"], parameters), arrays[key])


def test_official_blur_with_its_recorded_radius_is_reproduced(golden):
    arrays = golden("v1/aug_pil")
    radius = float(arrays["official_GaussianBlur_radius_seed123"])
    recolored = _recolor(arrays["img"], dataclasses.replace(NOTHING, blur_radius=radius))
    np.testing.assert_array_equal(recolored, arrays["official_GaussianBlur_p1_seed123"])


def test_grayscale_repeats_the_recorded_luma_in_three_channels(golden):
    arrays = golden("v1/aug_pil")
    expected = np.repeat(arrays["grayscale"][..., None], 3, axis=-1)
    recolored = _recolor(arrays["img"], dataclasses.replace(NOTHING, grayscale=True))
    np.testing.assert_array_equal(recolored, expected)


def test_hue_equals_pillow_for_every_color_of_a_fine_grid():
    levels = np.append(np.arange(0, 255, 3), 255).astype(np.uint8)
    colors = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1)
    image = colors.reshape(len(levels), -1, 3)
    for shift in (0.0, 0.1, -0.04):
        parameters = dataclasses.replace(NOTHING, jitter=(("hue", shift),))
        np.testing.assert_array_equal(_recolor(image, parameters), _pillow(image, parameters))


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 3), (40, 31)])
def test_blurs_of_any_radius_equal_those_of_pillow(shape):
    image = _noise(*shape)
    for radius in np.linspace(0.0, 9.0, 37).tolist():
        expected = Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius))
        recolored = _recolor(image, dataclasses.replace(NOTHING, blur_radius=radius))
        np.testing.assert_array_equal(recolored, np.asarray(expected))


def test_blur_weights_sum_up_to_one():
    for radius in np.linspace(0.0, 9.0, 100).tolist():
        r, inner, outer = blur_weights(radius)
        assert ONE - 1 <= (2 * r + 1) * inner + 2 * outer <= ONE


@pytest.mark.parametrize("threshold", [0, 1, 200, 255, 256])
def test_solarization_inverts_from_any_threshold(threshold):
    image = _noise(9, 8)
    config = dataclasses.replace(CONFIG, solarize_threshold=threshold)
    recolored = _recolor(image, dataclasses.replace(NOTHING, solarize=True), config)
    np.testing.assert_array_equal(recolored, np.where(image < threshold, image, 255 - image))


def test_random_parameters_are_applied_in_the_official_order():
    rng = np.random.default_rng(2)
    image = _noise(33, 50)
    for _ in range(100):
        parameters = sample_crop_parameters(rng, CONFIG, 1, 1)
        np.testing.assert_array_equal(_recolor(image, parameters), _pillow(image, parameters))


def test_a_jitter_of_fewer_operations_leaves_the_others_out():
    image = _noise(20, 20)
    config = dataclasses.replace(CONFIG, jitter=1.0, brightness=0.0, hue=0.0)
    parameters = sample_crop_parameters(np.random.default_rng(0), config, 1, 1)
    assert {name for name, _ in parameters.jitter} == {"contrast", "saturation"}
    np.testing.assert_array_equal(_recolor(image, parameters), _pillow(image, parameters))


def test_crops_that_are_not_recolored_are_only_interleaved():
    crops = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5), np.uint8)
    out = np.empty((2, 4, 5, 3), np.uint8)
    interleave_crops(crops, out)
    np.testing.assert_array_equal(out, crops.transpose(0, 2, 3, 1))
