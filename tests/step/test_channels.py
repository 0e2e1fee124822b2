"""Crops of images that are not RGB: every channel by itself, and the same on all back ends."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image, ImageFilter

from dino_jax.data.augment import sample_crop_parameters
from dino_jax.data.multi_crop import MultiCrop, allocate, apply_crop
from dino_jax.step.canvas import cut_crops
from dino_jax.step.photometric import apply_photometric
from tests.crops import OFFICIAL

CROP = dataclasses.replace(
    OFFICIAL, group="global", count=2, size=(24, 20), scale=(0.4, 1.0), solarize=0.3
)
LOCAL = dataclasses.replace(CROP, group="local", count=3, size=(9, 10), scale=(0.05, 0.4))
CROPS = {"global": CROP, "local": LOCAL}
SIZES = {name: crop.size for name, crop in CROPS.items()}
CHANNELS = pytest.mark.parametrize("channels", [1, 2, 4, 7])


def _image(channels, height=40, width=48):
    rng = np.random.default_rng(channels)
    planes = rng.integers(0, 256, (channels, 6, 5), np.uint8)
    large = [np.asarray(Image.fromarray(plane).resize((width, height))) for plane in planes]
    return np.stack(large, axis=2)


def _by_pillow(plane, parameters, config):
    """One channel, operation by operation."""
    left, top, right, bottom = parameters.box
    height, width = config.size
    view = Image.fromarray(plane).crop((left, top, right, bottom))
    view = view.resize((width, bottom - top), Image.Resampling.BICUBIC)
    view = view.resize((width, height), Image.Resampling.BICUBIC)
    if parameters.flip:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    levels = np.asarray(view)
    for name, factor in parameters.jitter:
        base = {"brightness": 0.0, "contrast": np.floor(levels.mean() + 0.5)}.get(name)
        if base is not None:
            mixed = base + np.float32(factor) * (levels.astype(np.float32) - np.float32(base))
            levels = np.clip(mixed, 0, 255).astype(np.uint8)
    if parameters.blur_radius is not None:
        blur = ImageFilter.GaussianBlur(parameters.blur_radius)
        levels = np.asarray(Image.fromarray(levels).filter(blur))
    if parameters.solarize:
        levels = np.where(levels < config.solarize_threshold, levels, 255 - levels)
    return levels


@CHANNELS
def test_each_channel_is_cut_and_recolored_by_itself(channels):
    image, rng = _image(channels), np.random.default_rng(0)
    for _ in range(30):
        parameters = sample_crop_parameters(rng, LOCAL, *image.shape[:2])
        made = apply_crop(image, parameters, LOCAL)
        for channel in range(channels):
            expected = _by_pillow(image[..., channel], parameters, LOCAL)
            np.testing.assert_array_equal(made[..., channel], expected)


def test_four_channels_are_no_rgb_with_another_one():
    """Their grayscale and saturation would mix the first three."""
    image = _image(4)
    gray = dataclasses.replace(CROP, jitter=0.0, blur=0.0, solarize=0.0)
    parameters = sample_crop_parameters(np.random.default_rng(0), gray, *image.shape[:2])
    plain = dataclasses.replace(parameters, grayscale=False)
    mixed = dataclasses.replace(parameters, grayscale=True)
    np.testing.assert_array_equal(apply_crop(image, plain, gray), apply_crop(image, mixed, gray))


def _batch(backend, channels, crops=CROPS):
    multi_crop = MultiCrop(crops, backend, (40, 48), channels=channels)
    batch = allocate(multi_crop, 3)
    multi_crop.begin(batch, np.random.default_rng(0))
    for row in range(3):
        multi_crop.fill(batch, row, _image(channels), np.random.default_rng(row))
    return batch


@CHANNELS
def test_the_device_makes_of_them_what_the_host_makes(channels):
    crops = {name: dataclasses.replace(crop, jitter=0.0) for name, crop in CROPS.items()}
    host = _batch("host", channels, crops)
    device = jax.jit(apply_photometric)(_batch("device", channels, crops))
    for name in host:
        np.testing.assert_array_equal(device[name], host[name])


@CHANNELS
def test_the_device_has_the_jitter_of_the_host_up_to_a_level(channels):
    batch = _batch("device", channels)
    made = jax.jit(apply_photometric)(batch)
    brightness_and_contrast = {0, 1}
    for group in CROPS:
        order = batch[f"{group}_jitter_order"][0]
        for row in range(3):
            for view, values in enumerate(batch[f"{group}_photometric"][row]):
                levels = batch[f"{group}_crops"][row, view].astype(np.float32)
                for operation in order[view]:
                    if operation in brightness_and_contrast:
                        mean = np.floor(levels.mean((0, 1)) + 0.5) if operation else 0
                        levels = np.clip(mean + values[operation] * (levels - mean), 0, 255)
                        levels = np.floor(levels)
                if values[6] == 1 << 24 and values[5] == 256:  # neither blurred nor solarized
                    differences = np.abs(np.asarray(made[f"{group}_crops"][row, view]) - levels)
                    assert differences.max() <= 1


@CHANNELS
def test_the_canvas_cuts_of_them_what_the_host_cuts(channels):
    plain = dict(jitter=0.0, blur=0.0, solarize=0.0)
    crops = {name: dataclasses.replace(crop, **plain) for name, crop in CROPS.items()}
    batch = _batch("canvas", channels, crops)
    assert batch["canvas"].shape == (3, 1, channels, 40, 48)
    made = jax.jit(lambda batch: apply_photometric(cut_crops(batch, SIZES)))(batch)
    host = _batch("host", channels, crops)
    for name in host:
        differences = np.abs(np.asarray(made[name]).astype(int) - host[name])
        assert differences.max() <= 2
        assert (differences > 0).mean() < 0.02


@CHANNELS
def test_an_image_that_is_reduced_to_the_canvas_keeps_its_channels(channels):
    multi_crop = MultiCrop(CROPS, "canvas", (20, 30), channels=channels)
    batch = allocate(multi_crop, 1)
    multi_crop.begin(batch, np.random.default_rng(0))
    image = _image(channels)
    multi_crop.fill(batch, 0, image, np.random.default_rng(0))
    for channel in range(channels):
        plane = Image.fromarray(image[..., channel]).resize((24, 40), Image.Resampling.BICUBIC)
        expected = np.asarray(plane.resize((24, 20), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(batch["canvas"][0, 0, channel, :, :24], expected)
        assert not batch["canvas"][0, 0, channel, :, 24:].any()


@pytest.mark.parametrize("backend", ["host", "device", "canvas"])
def test_an_image_of_other_channels_is_named(backend):
    multi_crop = MultiCrop(CROPS, backend, channels=4)
    with pytest.raises(ValueError, match="decoded to 3 channels, and the network takes 4"):
        multi_crop.fill(allocate(multi_crop, 1), 0, _image(3), np.random.default_rng(0))
