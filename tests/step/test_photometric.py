"""The device back end makes of a batch what the host back end, and so Pillow, makes of it."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from PIL import Image

from dino_jax.data.augment import sample_crop_parameters
from dino_jax.data.multi_crop import MultiCrop, allocate
from dino_jax.data.photometric import blur_taps, encode_photometric
from dino_jax.data.recolor import Photometric, recolor_crops
from dino_jax.devices.sharding import batch_sharding, make_mesh, shard_batch
from dino_jax.step.photometric import apply_photometric
from tests.crops import OFFICIAL

CROP = dataclasses.replace(OFFICIAL, group="global", count=2, size=(24, 20), scale=(0.4, 1.0))
NONE = {"jitter": 0.0, "grayscale": 0.0, "blur": 0.0, "solarize": 0.0}


def _images(count):
    """Smooth colors with some noise, as photographs have them."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (count, 6, 5, 3), np.uint8)
    large = np.stack([np.asarray(Image.fromarray(one).resize((40, 48))) for one in small])
    return np.clip(large + rng.normal(0, 8, large.shape), 0, 255).astype(np.uint8)


def _device_batch(config, count=16, seed=0):
    small = dataclasses.replace(config, group="local", count=3, size=(10, 10))
    multi_crop = MultiCrop({"global": config, "local": small}, "device")
    batch = allocate(multi_crop, count)
    multi_crop.begin(batch, np.random.default_rng(seed))
    for row, image in enumerate(_images(count)):
        multi_crop.fill(batch, row, image, np.random.default_rng(row))
    return batch


def _on_host(batch):
    """The host back end with the parameters of a batch of the device back end."""
    views = {}
    for kind in ("global", "local"):
        views[f"{kind}_crops"] = out = np.empty_like(batch[f"{kind}_crops"])
        rows = zip(
            batch[f"{kind}_crops"],
            batch[f"{kind}_photometric"],
            batch[f"{kind}_jitter_order"],
            strict=True,
        )
        for row, (crops, values, order) in enumerate(rows):
            planes = np.ascontiguousarray(crops.transpose(0, 3, 1, 2))
            recolor_crops(planes, Photometric(values, order), out[row])
    return views


def _differences(batch):
    device, host = jax.jit(apply_photometric)(batch), _on_host(batch)
    assert device.keys() == host.keys()
    assert all(device[name].dtype == np.uint8 for name in host)
    return np.concatenate(
        [np.abs(np.asarray(device[name]).astype(int) - host[name]).ravel() for name in host]
    )


@pytest.mark.parametrize(
    ("changes", "mean"),
    [
        ({"jitter": 1.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}, 1e-4),
        ({"jitter": 1.0, "brightness": 0.0, "saturation": 0.0, "hue": 0.0}, 1e-3),
        ({"jitter": 1.0, "brightness": 0.0, "contrast": 0.0, "hue": 0.0}, 1e-3),
        ({"jitter": 1.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0}, 0.02),
        ({"grayscale": 1.0}, 0),
        ({"blur": 1.0}, 0),
        ({"blur": 1.0, "blur_radius": (2.0, 7.0)}, 0),
        ({"solarize": 1.0}, 0),
        ({}, 0),
    ],
    ids=["brightness", "contrast", "saturation", "hue", "gray", "blur", "wide", "solarize", "none"],
)
def test_an_operation_differs_from_the_host_by_no_more_than_float32_rounding(changes, mean):
    config = dataclasses.replace(CROP, **{**NONE, **changes})
    assert _differences(_device_batch(config)).mean() <= mean


def test_all_operations_together_differ_from_the_host_by_less_than_a_fifth_of_a_level():
    differences = np.concatenate([_differences(_device_batch(CROP, seed=seed)) for seed in (0, 1)])
    assert differences.mean() < 0.05
    assert (differences > 1).mean() < 0.01


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)])
def test_the_order_of_the_jitter_is_that_of_the_batch(order):
    config = dataclasses.replace(CROP, **{**NONE, "jitter": 1.0})
    batch = _device_batch(config)
    for kind in ("global", "local"):
        batch[f"{kind}_jitter_order"][:] = order
    assert _differences(batch).mean() < 0.05


def test_every_view_has_an_order_of_its_own():
    batch = _device_batch(dataclasses.replace(CROP, **{**NONE, "jitter": 1.0}))
    batch["local_jitter_order"][:] = [(0, 1, 2, 3), (3, 1, 0, 2), (2, 3, 1, 0)]
    assert _differences(batch).mean() < 0.05


def test_any_group_is_recolored():
    names = {"local": "gram_anchor", "global": "a"}
    before = _device_batch(CROP)
    batch = {
        name.replace(group, new): entry
        for name, entry in before.items()
        for group, new in names.items()
        if name.startswith(group)
    }
    ours, expected = apply_photometric(batch), apply_photometric(before)
    assert ours.keys() == {"a_crops", "gram_anchor_crops"}
    for group, new in names.items():
        np.testing.assert_array_equal(ours[f"{new}_crops"], expected[f"{group}_crops"])


def test_a_batch_of_the_host_back_end_comes_back_as_it_is():
    batch = {"global_crops": np.ones((2, 1, 4, 4, 3), np.uint8), "masks": np.ones((2, 4))}
    assert apply_photometric(batch).keys() == batch.keys()
    assert apply_photometric(batch)["global_crops"] is batch["global_crops"]


def test_devices_that_share_a_batch_talk_about_nothing_but_the_jitter_order():
    batch = _device_batch(CROP)
    sharding = batch_sharding(make_mesh(1))
    expected = jax.jit(apply_photometric)(batch)
    compiled = jax.jit(apply_photometric).lower(shard_batch(batch, sharding)).compile()
    collectives = re.findall(r" (all-\w+|collective-\w+|reduce-scatter)\(", compiled.as_text())
    assert collectives == ["all-reduce"]  # u8[V, 4] of both kinds
    ours = compiled(shard_batch(batch, sharding))
    for name in expected:
        np.testing.assert_array_equal(np.asarray(ours[name]), np.asarray(expected[name]))
        assert ours[name].sharding.is_equivalent_to(sharding, ours[name].ndim)


def test_official_parameters_fit_into_the_columns_of_a_batch():
    rng = np.random.default_rng(0)
    parameters = [sample_crop_parameters(rng, CROP, 50, 50) for _ in range(200)]
    taps = blur_taps([CROP])
    values, _ = encode_photometric(parameters, [CROP] * 200, taps)
    assert taps == 3
    assert values.shape == (200, 9)
