"""The set of crops of one image."""

import dataclasses
import pickle

import numpy as np
import pytest
from ml_collections import ConfigDict

from dino_jax.data.multi_crop import MultiCrop, build_multi_crop

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


def _augment(**local):
    local = {**CROP, "count": 3, "size": (4, 6), **local}
    return ConfigDict({"global_1": CROP, "global_2": CROP, "local": local})


def test_crops_have_the_configured_counts_and_sizes():
    views = build_multi_crop(_augment())(IMAGE, np.random.default_rng(0))
    shapes = {name: (crops.shape, crops.dtype) for name, crops in views.items()}
    assert shapes == {
        "global_crops": ((2, 8, 8, 3), np.uint8),
        "local_crops": ((3, 4, 6, 3), np.uint8),
    }


def test_without_local_crops_the_key_is_absent():
    assert set(build_multi_crop(_augment(count=0))(IMAGE, np.random.default_rng(0))) == {
        "global_crops"
    }


def test_the_same_generator_state_gives_the_same_crops_after_pickling():
    multi_crop = build_multi_crop(_augment())
    first = multi_crop(IMAGE, np.random.default_rng(3))
    second = pickle.loads(pickle.dumps(multi_crop))(IMAGE, np.random.default_rng(3))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_crops_of_one_image_differ_from_each_other():
    views = build_multi_crop(_augment())(IMAGE, np.random.default_rng(0))["local_crops"]
    assert len({view.tobytes() for view in views}) == 3


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
