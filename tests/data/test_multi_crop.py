"""The set of crops of one image."""

import dataclasses
import pickle

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from dino_jax.data.augment import CropParameters, sample_crop_parameters
from dino_jax.data.multi_crop import MultiCrop, allocate, apply_crop, build_multi_crop
from dino_jax.data.recolor import BLUR
from tests import plain_augment

CROP = {
    "count": 1,
    "size": 8,
    "scale": (0.4, 1.0),
    "ratio": (0.75, 4 / 3),
    "flip": 0.5,
    "jitter": 0.8,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.2,
    "hue": 0.1,
    "grayscale": 0.2,
    "blur": 0.5,
    "blur_radius": (0.1, 2.0),
    "solarize": 0.2,
    "solarize_threshold": 128,
}
IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def _augment(backend="host", **local):
    local = {**CROP, "count": 3, "size": (4, 6), **local}
    return ConfigDict(
        {
            "global_1": CROP,
            "global_2": CROP,
            "local": local,
            "backend": backend,
            "blur": "as_documented",
        }
    )


def _draw(multi_crop, seed=0):
    batch = allocate(multi_crop, 1)
    multi_crop.begin(batch, np.random.default_rng(7))
    multi_crop.fill(batch, 0, IMAGE, np.random.default_rng(seed))
    return {name: rows[0] for name, rows in batch.items()}


def test_crops_have_the_configured_counts_and_sizes():
    views = _draw(build_multi_crop(_augment()))
    shapes = {name: (crops.shape, crops.dtype) for name, crops in views.items()}
    assert shapes == {
        "global_crops": ((2, 8, 8, 3), np.uint8),
        "local_crops": ((3, 4, 6, 3), np.uint8),
    }


def test_the_device_back_end_adds_parameters_and_an_order_per_crop():
    views = _draw(build_multi_crop(_augment(backend="device")))
    shapes = {name: (crops.shape, crops.dtype) for name, crops in views.items()}
    assert shapes == {
        "global_crops": ((2, 8, 8, 3), np.uint8),
        "global_photometric": ((2, BLUR + 3), np.float32),
        "global_jitter_order": ((2, 4), np.uint8),
        "local_crops": ((3, 4, 6, 3), np.uint8),
        "local_photometric": ((3, BLUR + 3), np.float32),
        "local_jitter_order": ((3, 4), np.uint8),
    }


def test_a_crop_is_cut_flipped_and_recolored_as_the_official_code_does(golden):
    image = golden("v1/aug_pil")["img"]
    rng = np.random.default_rng(0)
    config = build_multi_crop(_augment()).local_crops[0]
    for _ in range(50):
        parameters = sample_crop_parameters(rng, config, *image.shape[:2])
        expected = plain_augment.apply_crop(
            Image.fromarray(image), parameters, config, plain_augment.resize_horizontally_first
        )
        np.testing.assert_array_equal(apply_crop(image, parameters, config), expected)


@pytest.mark.parametrize(
    ("key", "box"),
    [("crop_resize", (7, 11, 57, 72)), ("crop_resize_up", (20, 30, 41, 47))],
)
def test_crop_and_resize_equal_the_recorded_ones_bit_by_bit(golden, key, box):
    arrays = golden("v1/aug_pil")
    config = dataclasses.replace(build_multi_crop(_augment()).local_crops[0], size=64)
    crop = apply_crop(arrays["img"], CropParameters(box, False, (), False, None, False), config)
    np.testing.assert_array_equal(crop, arrays[key])


def test_the_crops_of_an_image_are_drawn_one_after_the_other():
    multi_crop = build_multi_crop(_augment())
    rng = np.random.default_rng(5)
    expected = {
        name: [
            apply_crop(IMAGE, sample_crop_parameters(rng, config, 20, 30), config)
            for config in configs
            for _ in range(config.count)
        ]
        for name, configs in (
            ("global_crops", multi_crop.global_crops),
            ("local_crops", multi_crop.local_crops),
        )
    }
    for name, crops in _draw(multi_crop, seed=5).items():
        np.testing.assert_array_equal(crops, expected[name])


def test_without_local_crops_the_key_is_absent():
    assert set(_draw(build_multi_crop(_augment(count=0)))) == {"global_crops"}


def test_the_same_generator_state_gives_the_same_crops_after_pickling():
    multi_crop = build_multi_crop(_augment())
    first = _draw(multi_crop)
    second = _draw(pickle.loads(pickle.dumps(multi_crop)))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_crops_of_one_image_differ_from_each_other():
    views = _draw(build_multi_crop(_augment()))["local_crops"]
    assert len({view.tobytes() for view in views}) == 3


def test_an_unknown_back_end_is_an_error():
    with pytest.raises(ValueError, match=r"augment.backend 'gpu'; known: \('host', 'device'\)"):
        build_multi_crop(_augment(backend="gpu"))


def test_dinov2_blurs_with_the_inverse_of_the_probability_it_names():
    augment = _augment()
    augment.global_1 = {**CROP, "blur": 1.0}
    augment.global_2 = {**CROP, "blur": 0.1}
    for name, blurs in (("as_documented", (1.0, 0.1, 0.5)), ("as_trained", (0.0, 0.9, 0.5))):
        augment.blur = name
        multi_crop = build_multi_crop(augment)
        crops = (*multi_crop.global_crops, *multi_crop.local_crops)
        assert tuple(crop.blur for crop in crops) == blurs
    augment.blur = "as_intended"
    with pytest.raises(ValueError, match=r"augment.blur 'as_intended'; known: \['as_doc"):
        build_multi_crop(augment)


def test_global_crops_of_two_sizes_are_an_error():
    config = build_multi_crop(_augment()).global_crops[0]
    with pytest.raises(ValueError, match=r"global crops must .* \[\(8, 8\), \(9, 9\)\]"):
        MultiCrop((config, dataclasses.replace(config, size=9)), ())


def test_no_global_crops_are_an_error():
    config = build_multi_crop(_augment()).global_crops[0]
    with pytest.raises(ValueError, match="no global crops"):
        MultiCrop((dataclasses.replace(config, count=0),), (config,))


def test_unknown_and_missing_config_entries_are_listed():
    augment = _augment()
    del augment.local.flip
    augment.local.flop = 1.0
    with pytest.raises(ValueError, match=r"augment\.local: missing \['flip'\], unknown \['flop'\]"):
        build_multi_crop(augment)


def test_a_config_without_a_back_end_is_an_error():
    augment = _augment()
    del augment.backend
    with pytest.raises(ValueError, match=r"config.augment: missing \['backend'\]"):
        build_multi_crop(augment)
