"""Whole images on canvases of one size, and the boxes of the crops that go with them."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from dino_jax.data.canvas import BOX_COLUMNS, FLIP, FRAME, fitting_size, place
from dino_jax.data.multi_crop import MultiCrop, allocate
from tests.crops import OFFICIAL

ROOM = (24, 32)
GLOBAL = dataclasses.replace(OFFICIAL, group="global", count=2, size=(8, 8), scale=(0.4, 1.0))
LOCAL = dataclasses.replace(GLOBAL, group="local", count=3, size=(4, 6), scale=(0.05, 0.4))
CROPS = {"global": GLOBAL, "local": LOCAL}


def _noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def _place(pixels):
    canvas = np.full((3, *ROOM), 77, np.uint8)
    return canvas.transpose(1, 2, 0), place(pixels, canvas)


def _fill(multi_crop, frames, seed=0):
    batch = {name: np.full_like(rows, 77) for name, rows in allocate(multi_crop, 1).items()}
    multi_crop.begin(batch, np.random.default_rng(7))
    multi_crop.fill(batch, 0, frames, np.random.default_rng(seed))
    return {name: rows[0] for name, rows in batch.items()}


@pytest.mark.parametrize("size", [(24, 32), (1, 1), (24, 1), (1, 32), (17, 23)])
def test_an_image_that_fits_is_there_as_it_is_on_black(size):
    pixels = _noise(*size)
    for image in (pixels, pixels[::-1, ::-1]):
        canvas, ratios = _place(image)
        np.testing.assert_array_equal(canvas[: size[0], : size[1]], image)
        assert not canvas[size[0] :].any() and not canvas[:, size[1] :].any()
        assert ratios == (1.0, 1.0)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((48, 64), (24, 32)),
        ((25, 32), (24, 31)),
        ((24, 33), (23, 32)),
        ((300, 7), (24, 1)),
        ((3, 2000), (1, 32)),
        ((100, 90), (24, 22)),
    ],
)
def test_a_larger_image_is_reduced_as_pillow_does_with_its_aspect(size, expected):
    assert fitting_size(size, ROOM) == expected
    pixels = _noise(*size)
    canvas, ratios = _place(pixels)
    height, width = expected
    across = Image.fromarray(pixels).resize((width, size[0]), Image.Resampling.BICUBIC)
    both = across.resize((width, height), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(canvas[:height, :width], np.asarray(both))
    assert not canvas[height:].any() and not canvas[:, width:].any()
    assert ratios == (height / size[0], width / size[1])


@pytest.mark.parametrize("size", [(20, 30), (60, 30), (20, 301)])
def test_the_boxes_are_those_of_the_other_back_ends(size):
    pixels, multi_crop = _noise(*size), MultiCrop(CROPS, "canvas", ROOM)
    drawn = multi_crop.sample(np.random.default_rng(3), [size])
    views = _fill(multi_crop, pixels, seed=3)
    height, width = fitting_size(size, ROOM)
    for name, group in multi_crop.groups.items():
        assert views[f"{name}_boxes"].shape == (len(group.crops), BOX_COLUMNS)
        for row, crop in zip(views[f"{name}_boxes"], group.crops, strict=True):
            left, top, right, bottom = drawn[crop.key].box
            down, across = height / size[0], width / size[1]
            expected = (left * across, top * down, right * across, bottom * down)
            np.testing.assert_allclose(row[:FLIP], expected, rtol=1e-6)
            assert (row[FLIP], row[FRAME]) == (drawn[crop.key].flip, 0)


def test_colors_are_drawn_as_for_the_device_back_end():
    pixels = _noise(20, 30)
    canvas, device = (
        _fill(multi_crop, pixels)
        for multi_crop in (MultiCrop(CROPS, "canvas", ROOM), MultiCrop(CROPS, "device"))
    )
    for name in ("photometric", "jitter_order"):
        for group in CROPS:
            entry = f"{group}_{name}"
            np.testing.assert_array_equal(canvas[entry], device[entry])
    assert {name for name in device if name not in canvas} == {"global_crops", "local_crops"}


def test_a_clip_has_one_canvas_per_frame_that_a_crop_names():
    crops = {
        name: dataclasses.replace(GLOBAL, count=1, frame=frame)
        for name, frame in (("a", 0), ("b", 4), ("c", 1), ("d", 4))
    }
    multi_crop = MultiCrop(crops, "canvas", ROOM)
    frames = [_noise(20, 30, seed) for seed in range(3)]
    views = _fill(multi_crop, frames)
    assert views["canvas"].shape == (3, 3, *ROOM)
    for canvas, frame in zip(views["canvas"], (0, 1, 1), strict=True):  # 4 is 1 modulo 3
        np.testing.assert_array_equal(canvas[:, :20, :30].transpose(1, 2, 0), frames[frame])
    assert views["global_boxes"][:, FRAME].tolist() == [0, 2, 1, 2]
    still = _fill(multi_crop, frames[0])["canvas"]
    assert (still == still[0]).all()
