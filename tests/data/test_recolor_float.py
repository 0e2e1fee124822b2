"""Colors in float32 against BYOL's recorded operations, on the host and on the device."""

import dataclasses

import jax
import numpy as np
import pytest

from dino_jax.data.augment import CropParameters, sample_crop_parameters
from dino_jax.data.multi_crop import MultiCrop, allocate
from dino_jax.data.photometric import blur_taps, encode_photometric, recolor
from dino_jax.data.recolor_float import blur_reach, gaussian_weights
from dino_jax.step.photometric import apply_photometric
from tests.crops import OFFICIAL

HALF_LEVEL = 0.5 / 255 + 1e-6  # results are rounded to uint8
CONFIG = dataclasses.replace(
    OFFICIAL, group="global", size=(32, 32), colors="float", brightness_adds=True
)
NOTHING = CropParameters(
    box=(0, 0, 32, 32), flip=False, jitter=(), grayscale=False, blur_radius=None, solarize=False
)


def on_host(image, parameters, config=CONFIG):
    photometric = encode_photometric([parameters], [config], blur_taps([config]))
    out = np.zeros((1, *image.shape), np.uint8)
    recolor("float", image.transpose(2, 0, 1)[None].copy(), photometric, out)
    return out[0]


def on_device(image, parameters, config=CONFIG):
    values, order = encode_photometric([parameters], [config], blur_taps([config]))
    batch = {
        "global_crops": image[None, None],
        "global_colors": values[None],
        "global_jitter_order": order[None],
    }
    return np.asarray(jax.jit(apply_photometric)(batch)["global_crops"])[0, 0]


@pytest.mark.parametrize("where", [on_host, on_device])
@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("brightness_+0.25", {"jitter": (("brightness", 0.25),)}),
        ("contrast_0.7", {"jitter": (("contrast", 0.7),)}),
        ("saturation_1.2", {"jitter": (("saturation", 1.2),)}),
        ("hue_+0.07", {"jitter": (("hue", 0.07),)}),
        ("hue_-0.09", {"jitter": (("hue", -0.09),)}),
        ("gray", {"grayscale": True}),
        ("blur_k3.2_sigma0.3", {"blur_radius": 0.3}),
        ("blur_k3.2_sigma1.5", {"blur_radius": 1.5}),
        ("solarize", {"solarize": True}),
    ],
)
def test_every_operation_equals_the_recorded_one(golden, where, key, changes):
    arrays = golden("ssl/b_augment")
    image = np.round(255 * arrays["image_hwc"]).astype(np.uint8)
    got = where(image, dataclasses.replace(NOTHING, **changes)) / 255
    expected = np.clip(arrays[key], 0, 1)
    np.testing.assert_allclose(got, np.broadcast_to(expected, got.shape), rtol=0, atol=HALF_LEVEL)


@pytest.mark.parametrize("radius", [0.3, 1.5])
def test_the_kernel_of_224_pixels_has_23_and_gives_the_recorded_blur(golden, radius):
    arrays, reach = golden("ssl/b_augment"), blur_reach(224)
    assert reach == 11 and blur_taps([dataclasses.replace(CONFIG, size=(224, 224))]) == 13
    weights = gaussian_weights(radius, reach)
    both = np.array(weights[:0:-1] + weights)
    blurred = arrays["image_hwc"].astype(np.float64)
    for axis in (0, 1):
        blurred = np.apply_along_axis(np.convolve, axis, blurred, both, "same")
    expected = arrays[f"blur_k22.4_sigma{radius}"]
    np.testing.assert_allclose(blurred, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("seed", "channels"), [(0, 3), (1, 3), (2, 3), (3, 5)])
def test_the_device_gives_what_the_host_gives(seed, channels):
    config = dataclasses.replace(CONFIG, size=(24, 20), jitter=1.0, hue=0.2, blur=1.0)
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (24, 20, channels), np.uint8)
    parameters = sample_crop_parameters(rng, config, 24, 20)
    host, device = (where(image, parameters, config).astype(int) for where in (on_host, on_device))
    assert np.abs(host - device).max() <= 1
    assert np.mean(host != device) < 0.01


def test_a_batch_of_the_device_back_end_is_recolored():
    multi_crop = MultiCrop({"global": CONFIG}, "device")
    batch = allocate(multi_crop, 2)
    multi_crop.begin(batch, np.random.default_rng(1))
    for row in range(2):
        image = np.random.default_rng(row).integers(0, 256, (40, 48, 3), np.uint8)
        multi_crop.fill(batch, row, image, np.random.default_rng(row))
    assert batch["global_colors"].shape == (2, 1, 7 + 2)  # a reach of 1 at 32 pixels
    assert jax.eval_shape(apply_photometric, batch).keys() == {"global_crops"}


def test_brightness_adds_or_multiplies():
    image = np.full((4, 4, 3), 51, np.uint8)  # 0.2
    config = dataclasses.replace(CONFIG, size=(4, 4))
    bright = dataclasses.replace(NOTHING, jitter=(("brightness", 0.4),))
    assert (on_host(image, bright, config) == 153).all()
    multiplied = dataclasses.replace(config, brightness_adds=False)
    assert (on_host(image, bright, multiplied) == 20).all()


def test_added_brightness_is_drawn_on_both_sides_of_0():
    config = dataclasses.replace(CONFIG, jitter=1.0, brightness=0.8)
    rng = np.random.default_rng(0)
    drawn = [
        dict(sample_crop_parameters(rng, config, 9, 9).jitter)["brightness"] for _ in range(300)
    ]
    assert -0.8 <= min(drawn) < -0.75 and 0.75 < max(drawn) <= 0.8


def test_a_group_has_one_arithmetic_and_only_float32_adds_brightness():
    pillow = dataclasses.replace(CONFIG, colors="pillow", brightness_adds=False)
    with pytest.raises(ValueError, match="group 'global' must have one arithmetic of `colors`"):
        MultiCrop({"a": CONFIG, "b": pillow})
    with pytest.raises(ValueError, match=r"crops\.a\.brightness_adds needs .*colors=float"):
        MultiCrop({"a": dataclasses.replace(pillow, brightness_adds=True)})
