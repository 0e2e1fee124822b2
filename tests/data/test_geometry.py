"""Crop, resize and flip are Pillow's, bit by bit."""

import numpy as np
import pytest
from PIL import Image

from dino_jax.data.geometry import resize_crops, split_columns
from tests.plain_augment import resize_horizontally_first


def _noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def _resize(image, box, height, width, flip=False):
    columns = split_columns(image)
    return resize_crops(columns, np.array([box]), np.array([flip]), height, width)[0].transpose(
        1, 2, 0
    )


def _pillow(image, box, height, width):
    crop = Image.fromarray(image).crop(box)
    return np.asarray(resize_horizontally_first(crop, (width, height)))


@pytest.mark.parametrize(
    ("image", "box", "size"),
    [
        ((390, 478), (10, 20, 300, 380), (224, 224)),  # 8 taps
        ((390, 478), (11, 23, 230, 250), (96, 96)),  # 12 taps
        ((390, 478), (0, 0, 478, 390), (96, 96)),  # more
        ((390, 478), (400, 300, 478, 390), (224, 224)),  # enlarged at the edge
        ((300, 2000), (3, 5, 1993, 290), (5, 7)),
        ((2000, 3), (0, 0, 3, 2000), (9, 97)),
        ((65, 129), (0, 0, 129, 65), (65, 129)),  # unchanged
        ((3, 50), (1, 0, 49, 3), (31, 17)),
        ((1, 1), (0, 0, 1, 1), (96, 96)),
        ((1, 300), (7, 0, 8, 1), (1, 1)),
    ],
    ids=str,
)
def test_a_resized_crop_equals_that_of_pillow(image, box, size):
    pixels = _noise(*image)
    expected = _pillow(pixels, box, *size)
    np.testing.assert_array_equal(_resize(pixels, box, *size), expected)
    np.testing.assert_array_equal(_resize(pixels, box, *size, flip=True), expected[:, ::-1])


def test_many_random_crops_equal_those_of_pillow():
    rng = np.random.default_rng(1)
    for _ in range(60):
        height, width = rng.integers(1, 300, 2)
        pixels = _noise(height, width)
        left, top = rng.integers(width), rng.integers(height)
        box = (left, top, rng.integers(left, width) + 1, rng.integers(top, height) + 1)
        size = rng.integers(1, 100, 2)
        np.testing.assert_array_equal(_resize(pixels, box, *size), _pillow(pixels, box, *size))


def test_crops_of_one_image_do_not_touch_each_other():
    pixels = _noise(100, 120)
    boxes = np.array([(0, 0, 50, 60), (20, 30, 120, 100), (5, 5, 6, 6)])
    crops = resize_crops(split_columns(pixels), boxes, np.array([False, True, False]), 33, 21)
    for crop, box, flip in zip(crops, boxes.tolist(), (False, True, False), strict=True):
        np.testing.assert_array_equal(crop.transpose(1, 2, 0), _resize(pixels, box, 33, 21, flip))


def test_a_view_of_a_larger_array_is_an_image_too():
    pixels = _noise(60, 70)[::2, ::-1]
    np.testing.assert_array_equal(
        _resize(pixels, (1, 2, 50, 29), 8, 8), _pillow(pixels.copy(), (1, 2, 50, 29), 8, 8)
    )


def _weights(begin, end, count, length):
    """Keys' cubic convolution (a = -1/2), antialiased, over the pixels that a range touches."""
    scale = (end - begin) / count
    centers = begin + (np.arange(count)[:, None] + 0.5) * scale
    x = np.abs(np.arange(length) + 0.5 - centers) / max(scale, 1)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    weights[:, : int(np.floor(begin))] = 0
    weights[:, int(np.ceil(end)) :] = 0
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize(
    "box", [(10.25, 3.5, 50.75, 40.0), (0.125, 0, 7.5, 59.5), (30, 20.5, 70, 60)]
)
def test_a_box_with_fractions_is_cut_where_it_is(box):
    pixels, (height, width) = _noise(60, 70), (9, 13)
    left, top, right, bottom = box
    across, down = _weights(left, right, width, 70), _weights(top, bottom, height, 60)
    middle = np.clip(np.floor(np.einsum("xw,hwc->hxc", across, pixels) + 0.5), 0, 255)
    expected = np.clip(np.einsum("yh,hxc->yxc", down, middle), 0, 255)
    for flip in (False, True):
        crop = _resize(pixels, box, height, width, flip)
        assert np.abs(crop[:, ::-1] - expected if flip else crop - expected).max() < 0.51


def test_whole_numbers_may_be_given_as_floats():
    pixels, box = _noise(60, 70), (1, 2, 50, 29)
    np.testing.assert_array_equal(
        _resize(pixels, tuple(map(float, box)), 8, 8), _resize(pixels, box, 8, 8)
    )


@pytest.mark.parametrize(
    ("image", "box", "size"),
    [
        ((390, 478), (10, 20, 300, 380), (96, 96)),
        ((390, 478), (400, 300, 478, 390), (224, 224)),
        ((65, 129), (0, 0, 129, 65), (65, 129)),
        ((1, 1), (0, 0, 1, 1), (9, 7)),
    ],
    ids=str,
)
def test_a_bilinear_crop_equals_that_of_pillow(image, box, size):
    pixels, (height, width) = _noise(*image), size
    crop = Image.fromarray(pixels).crop(box)
    for side in ((width, crop.height), (width, height)):  # the columns first
        crop = crop.resize(side, Image.Resampling.BILINEAR)
    ours = resize_crops(
        split_columns(pixels), np.array([box, box]), np.array([False, True]), *size,
        np.array([True, True]),
    )  # fmt: skip
    np.testing.assert_array_equal(ours[0].transpose(1, 2, 0), np.asarray(crop))
    np.testing.assert_array_equal(ours[1][:, :, ::-1], ours[0])
