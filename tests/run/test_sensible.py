"""Sizes and lengths that fit images and machine."""

import pytest

from dino_jax.run.sensible import GIB, choose


def chosen(images: int, side: float, **machine) -> dict:
    return {one.option: one.value for one in choose(images, side, **machine)}


@pytest.mark.parametrize(
    ("images", "side", "machine", "size", "patch", "batch", "steps"),
    [
        # 50 passes are 781 steps of 64: the least number holds.
        (1_000, 32, dict(accelerator=False), 32, 8, 64, 1_200),
        (10_000, 64, dict(accelerator=False), 64, 8, 64, 7_800),
        (100_000, 28, dict(accelerator=False), 32, 8, 64, 20_000),
        (10_000, 1_080, dict(accelerator=False), 64, 8, 64, 7_800),
        (1_000, 480, dict(accelerator=True), 224, 16, 64, 5_000),
        (10_000, 480, dict(accelerator=True), 224, 16, 64, 20_000),
        (10_000, 480, dict(accelerator=True, devices=8), 224, 16, 512, 5_900),
        (100_000, 480, dict(accelerator=True, devices=8), 224, 16, 512, 20_000),
        (10_000, 480, dict(accelerator=True, memory=96 * GIB), 224, 16, 256, 11_700),
        (10_000, 100, dict(accelerator=True), 128, 16, 128, 20_000),
    ],
)
def test_sizes_and_length_follow_images_and_machine(
    images, side, machine, size, patch, batch, steps
):
    found = chosen(images, side, **machine)
    assert found["augment.crops.global_1.size"] == (size, size)
    assert found["image_size"] == size
    assert found["network.backbone.patch_size"] == patch
    assert found["batch_size"] == batch
    assert found["epochs"] * 100 == steps


@pytest.mark.parametrize("accelerator", [False, True])
@pytest.mark.parametrize("side", [16, 32, 48, 64, 96, 160, 224, 4_000])
def test_crops_are_whole_patches_and_heads_divide_the_width(side, accelerator):
    found = chosen(5_000, side, accelerator=accelerator)
    patch = found["network.backbone.patch_size"]
    for crop in ("global_1", "global_2", "local"):
        assert found[f"augment.crops.{crop}.size"][0] % patch == 0
    width = found["network.backbone.embed_dim"]
    assert width % found["network.backbone.num_heads"] == 0


def test_every_choice_has_a_reason_and_no_option_comes_twice():
    choices = choose(3_000, 64, accelerator=False)
    assert all(one.reason for one in choices)
    assert len({one.option for one in choices}) == len(choices)


@pytest.mark.parametrize("devices", range(1, 17))
def test_devices_and_groups_divide_a_batch(devices):
    batch = chosen(100_000, 224, accelerator=True, devices=devices)["batch_size"]
    assert batch % devices == batch % 16 == 0
    assert 48 <= batch <= 512


def test_a_batch_is_no_larger_than_the_devices_hold():
    small = chosen(100_000, 224, accelerator=True, devices=2)
    large = chosen(100_000, 224, accelerator=True, devices=2, memory=32 * GIB)
    assert (small["batch_size"], large["batch_size"]) == (128, 256)


@pytest.mark.parametrize(
    ("images", "changed", "words"),
    [
        (20, {}, "20 images are fewer than a batch of 64"),
        (500, {"median_side": 0}, "median_side must be positive, got 0"),
        (500, {"devices": 0}, "devices must be positive, got 0"),
    ],
)
def test_what_cannot_be_trained_is_said(images, changed, words):
    with pytest.raises(ValueError, match=words):
        choose(images, **{"median_side": 64, "accelerator": True, **changed})
