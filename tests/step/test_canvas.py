"""Crops that the device cuts are those of the host, up to the rounding of single values."""

import dataclasses

import jax
import numpy as np
import pytest

from dino_jax.data.multi_crop import MultiCrop, allocate
from dino_jax.devices.sharding import batch_sharding, make_mesh, shard_batch
from dino_jax.plan.cost import COLLECTIVES
from dino_jax.step import canvas
from dino_jax.step.canvas import cut_crops, multiply_bfloat16, multiply_float32
from dino_jax.step.photometric import apply_photometric
from tests.crops import OFFICIAL
from tests.quick_compiler import USUAL
from tests.step.test_photometric import _images

ROOM = (48, 56)
PLAIN = dict(jitter=0.0, grayscale=0.0, blur=0.0, solarize=0.0)
GLOBAL = dataclasses.replace(
    OFFICIAL, group="global", count=2, size=(24, 20), scale=(0.4, 1.0), **PLAIN
)
CROPS = {
    "global": GLOBAL,  # reduced
    "local": dataclasses.replace(GLOBAL, group="local", count=3, size=(9, 10), scale=(0.05, 0.4)),
    "large": dataclasses.replace(GLOBAL, group="large", count=1, size=(64, 80), scale=(0.05, 0.4)),
}
SIZES = {name: crop.size for name, crop in CROPS.items()}


def _batch(crops, backend, frames):
    multi_crop = MultiCrop(crops, backend, ROOM)
    batch = allocate(multi_crop, len(frames))
    multi_crop.begin(batch, np.random.default_rng(0))
    for row, frame in enumerate(frames):
        multi_crop.fill(batch, row, frame, np.random.default_rng(row))
    return batch


def _differences(ours, theirs):
    return np.concatenate(
        [
            np.abs(np.asarray(ours[f"{name}_crops"]).astype(int) - theirs[f"{name}_crops"]).ravel()
            for name in CROPS
        ]
    )


@pytest.mark.parametrize(
    ("multiply", "resize"),
    [
        (multiply_float32, "bicubic"),
        (multiply_bfloat16, "bicubic"),
        (multiply_float32, "bilinear"),
    ],
)
def test_a_crop_differs_from_that_of_the_host_by_single_levels_of_few_values(
    multiply, resize, monkeypatch
):
    monkeypatch.setattr(canvas, "_multiply", multiply)
    cut = jax.jit(lambda batch: cut_crops(batch, SIZES))
    crops = {name: dataclasses.replace(crop, resize=resize) for name, crop in CROPS.items()}
    images = list(_images(32))
    ours = cut(_batch(crops, "canvas", images))
    assert all(ours[f"{name}_crops"].dtype == np.uint8 for name in CROPS)
    differences = _differences(ours, _batch(crops, "host", images))
    assert differences.mean() < 0.01
    assert (differences > 1).mean() < 1e-4
    assert differences.max() <= 2  # a column off by one, and one by rounding


def test_products_in_bfloat16_equal_those_in_float32_bit_by_bit(monkeypatch):
    batch = _batch(CROPS, "canvas", list(_images(8)))
    views = []
    for multiply in (multiply_bfloat16, multiply_float32):
        monkeypatch.setattr(canvas, "_multiply", multiply)
        # Two programs, which only full optimisation rounds alike where they draw the weights.
        cut = jax.jit(lambda batch: cut_crops(batch, SIZES), compiler_options=USUAL)
        views.append(cut(batch))
    for name in CROPS:
        np.testing.assert_array_equal(*(each[f"{name}_crops"] for each in views))


def test_on_tpus_and_gpus_products_are_of_bfloat16_twice_and_on_cpus_of_float32():
    batch = _batch(CROPS, "canvas", list(_images(2)))
    traced = jax.jit(lambda batch: cut_crops(batch, SIZES)).trace(batch)
    for platform, dtype, count in (("tpu", "bf16", 2), ("cuda", "bf16", 2), ("cpu", "f32", 1)):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        products = [line for line in text.splitlines() if "dot_general" in line]
        assert len(products) == 2 * len(CROPS) * count, platform
        assert all(f"{dtype}>, tensor" in line for line in products), platform


def test_an_image_of_one_color_stays_so_up_to_the_edges():
    images = [np.full((40, 50, 3), level, np.uint8) for level in (1, 128, 255)]
    cut = cut_crops(_batch(CROPS, "canvas", images), SIZES)
    for name in CROPS:
        for crops, level in zip(cut[f"{name}_crops"], (1, 128, 255), strict=True):
            assert (crops == level).all()


def test_a_crop_of_a_reduced_image_is_that_of_the_whole_one_where_nothing_is_enlarged():
    """Of a smooth image: a reduced one has nothing finer than its pixels."""
    y, x = np.mgrid[:192, :224] / 224
    smooth = np.stack([255 * y, 255 * x, 127 * (x + y)], -1).astype(np.uint8)
    ours = cut_crops(_batch(CROPS, "canvas", [smooth]), SIZES)
    differences = _differences(ours, _batch(CROPS, "host", [smooth]))
    assert differences.mean() < 0.5
    assert differences.max() <= 4


def test_crops_come_from_the_frame_that_they_name():
    frames = [np.full((40, 50 + level, 3), level, np.uint8) for level in (1, 2, 3)]
    crops = {
        name: dataclasses.replace(GLOBAL, count=1, frame=frame)
        for name, frame in (("a", 0), ("b", 1), ("c", 2), ("d", 4))
    }
    cut = cut_crops(_batch(crops, "canvas", [frames, frames[::-1]]), SIZES)["global_crops"]
    assert [[np.unique(x).tolist() for x in views] for views in np.asarray(cut)] == [
        [[1], [2], [3], [2]],
        [[3], [2], [1], [2]],
    ]


def test_a_batch_of_another_back_end_comes_back_as_it_is():
    batch = _batch(CROPS, "device", list(_images(1)))
    assert cut_crops(batch, SIZES) is batch


def test_everything_else_in_the_batch_stays():
    batch = _batch(CROPS, "canvas", list(_images(2))) | {"masks": np.ones((2, 2, 4))}
    colors = {f"{name}_{part}" for name in CROPS for part in ("photometric", "jitter_order")}
    expected = {"masks", *colors, *(f"{name}_crops" for name in CROPS)}
    assert cut_crops(batch, SIZES).keys() == expected


def test_devices_that_share_a_batch_exchange_nothing_to_cut_the_crops():
    batch = _batch(CROPS, "canvas", list(_images(8)))
    sharding = batch_sharding(make_mesh(2))
    cut = jax.jit(lambda batch: cut_crops(batch, SIZES))
    expected = cut(batch)
    compiled = cut.lower(shard_batch(batch, sharding)).compile()
    assert not any(f" {kind}" in compiled.as_text() for kind in COLLECTIVES)
    ours = compiled(shard_batch(batch, sharding))
    for name in expected:
        np.testing.assert_array_equal(np.asarray(ours[name]), np.asarray(expected[name]))
        assert ours[name].sharding.is_equivalent_to(sharding, ours[name].ndim)


def test_the_whole_augmentation_is_that_of_the_device_back_end_up_to_single_levels():
    crops = {name: dataclasses.replace(crop, jitter=0.8) for name, crop in CROPS.items()}
    images = list(_images(16))
    views = [
        jax.jit(lambda batch: apply_photometric(cut_crops(batch, SIZES)))(
            _batch(crops, backend, images)
        )
        for backend in ("canvas", "device")
    ]
    ours, theirs = ({name: np.asarray(x).astype(int) for name, x in each.items()} for each in views)
    differences = _differences(ours, theirs)
    assert differences.mean() < 0.02
    assert (differences > 1).mean() < 0.001
