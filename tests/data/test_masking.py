"""Masks against the recorded draws, collate and statistics of the official code."""

import json
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from dino_jax.data.augment import CropConfig
from dino_jax.data.block_masking import BlockMasking, sample_block_mask, sample_masks
from dino_jax.data.mask_indices import index_masks
from dino_jax.data.masking import MASKINGS, MaskingConfig, build_masking
from dino_jax.data.multi_crop import MultiCrop
from dino_jax.data.random_masking import RandomMasking

GROUPS = MultiCrop({"crop": CropConfig(count=2, size=(64, 72))}).groups
OFFICIAL = dict(probability=0.5, ratio=(0.1, 0.5))
STATISTICS = json.loads((Path(__file__).parent.parent / "golden/v2/c_mask_stats.json").read_text())


def make_config(**changes):
    return ConfigDict(dict(kind="block", group_size=8, **OFFICIAL) | changes)


@pytest.mark.parametrize(
    ("side", "counts"),
    [
        (16, (0, 10, 25, 49, 98, 128)),
        (14, (0, 10, 25, 49, 98, 128)),
        (7, (0, 4, 9, 14, 20, 24)),
    ],
)
def test_masks_equal_the_official_draws_of_the_same_seed(golden, side, counts):
    recorded = golden("v2/c_mask_exact_draws")
    rng = random.Random(1234)
    for draw, count in enumerate(counts):
        mask = sample_block_mask(rng, (side, side), count)
        np.testing.assert_array_equal(mask, recorded[f"side{side}/draw{draw}"])


@pytest.mark.parametrize("side", [16, 14])
def test_a_group_equals_the_official_collate_of_the_same_seed(golden, side):
    recorded = {name: golden("v2/c_collate")[f"side{side}/{name}"] for name in (
        "collated_masks", "mask_indices_list", "masks_weight", "upperbound", "n_masked_patches"
    )}  # fmt: skip
    masks = sample_masks(random.Random(99), images=8, crops=2, grid=(side, side), **OFFICIAL)
    crop_major = masks.swapaxes(0, 1).reshape(16, -1)
    np.testing.assert_array_equal(crop_major, recorded["collated_masks"])

    bound = BlockMasking((side, side), 2, 8, **OFFICIAL).bound
    assert bound == recorded["upperbound"]
    indexed = index_masks(masks, bound)
    valid = indexed["mask_weight"] > 0
    assert valid.sum() == recorded["n_masked_patches"][0]
    image, crop, token = np.unravel_index(indexed["mask_indices"][valid], masks.shape)
    official = np.ravel_multi_index((crop, image, token), (2, 8, side * side))
    order = np.argsort(official)
    np.testing.assert_array_equal(official[order], recorded["mask_indices_list"])
    weights = indexed["mask_weight"][valid][order]
    np.testing.assert_array_equal(weights, recorded["masks_weight"])


@pytest.mark.parametrize(("images", "side", "bound"), [(32, 16, 2496), (64, 14, 3771)])
def test_the_bound_is_the_official_one(images, side, bound):
    assert BlockMasking((side, side), 2, images, **OFFICIAL).bound == bound


@pytest.mark.parametrize("case", sorted(STATISTICS))
def test_sizes_and_places_of_masks_have_the_recorded_statistics(golden, case):
    side, count = map(int, case.split("/"))
    wanted, draws = STATISTICS[case], 4000
    rng = random.Random(case)
    masks = np.stack([sample_block_mask(rng, (side, side), count) for _ in range(draws)])
    sizes = masks.sum(axis=(1, 2))
    noise = np.sqrt(1 / draws + 1 / wanted["draws"])  # of the difference of two means
    assert sizes.max() == count
    assert abs(sizes.mean() - wanted["mean"]) < 5 * wanted["std"] * noise
    exact = wanted["frac_exact"]
    assert abs(np.mean(sizes == count) - exact) < 5 * np.sqrt(exact * (1 - exact)) * noise
    frequency = golden("v2/c_mask_freq")[f"{side}/{count}"]
    error = (masks.mean(axis=0) - frequency) / np.sqrt(frequency * (1 - frequency)) / noise
    assert np.sqrt(np.mean(error**2)) < 1.6  # 1 if cells were independent
    assert np.abs(error).max() < 6


def test_half_of_the_crops_of_a_group_are_masked_and_the_count_stays_below_the_bound():
    masking = BlockMasking((16, 16), 2, 32, **OFFICIAL)
    for step in range(20):
        drawn = masking(0, step, 0)
        per_crop = drawn["masks"].sum(-1)
        assert np.count_nonzero(per_crop) == 32
        assert per_crop.max() <= 0.5 * 256
        count = np.count_nonzero(drawn["mask_weight"])
        assert count == per_crop.sum() and 2400 < count <= 2496  # recorded: 2421 to 2452


def test_arrays_of_a_group_have_fixed_shapes_and_dtypes():
    masking = BlockMasking((4, 6), 2, 3, **OFFICIAL)
    for step in range(3):
        drawn = masking(7, step, 1)
        shapes = {name: (array.shape, array.dtype.name) for name, array in drawn.items()}
        assert shapes == {
            "masks": ((3, 2, 24), "bool"),
            "mask_indices": ((1, masking.bound), "int32"),
            "mask_weight": ((1, masking.bound), "float32"),
        }


def test_the_weights_of_a_masked_crop_sum_to_one_and_only_padding_weighs_nothing():
    drawn = BlockMasking((16, 16), 2, 8, **OFFICIAL)(0, 0, 0)
    indices, weights = drawn["mask_indices"][0], drawn["mask_weight"][0]
    count = drawn["masks"].sum()
    assert 0 < count < len(weights)
    np.testing.assert_array_equal(weights > 0, np.arange(len(weights)) < count)
    per_crop = np.bincount(indices // 256, weights, minlength=16)
    np.testing.assert_allclose(per_crop, drawn["masks"].any(-1).ravel(), rtol=1e-6)


def test_masks_are_a_pure_function_of_seed_step_and_group():
    masking = BlockMasking((8, 8), 2, 4, **OFFICIAL)
    again = pickle.loads(pickle.dumps(masking))
    masks = [masking(*key)["masks"] for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))]
    random.seed(5)
    np.testing.assert_array_equal(again(0, 0, 0)["masks"], masks[0])
    for i in range(4):
        for j in range(i):
            assert (masks[i] != masks[j]).any()


def test_indices_count_image_by_image():
    masks = np.zeros((2, 2, 3), bool)
    masks[0, 1, 2] = masks[1, 0, 0] = masks[1, 0, 1] = True
    indexed = index_masks(masks, 4)
    np.testing.assert_array_equal(indexed["mask_indices"], [5, 6, 7, 0])
    np.testing.assert_array_equal(indexed["mask_weight"], np.float32([1, 0.5, 0.5, 0]))
    with pytest.raises(ValueError, match="3 patches are masked, more than the bound of 2"):
        index_masks(masks, 2)


def test_a_config_without_masks_gives_none():
    assert (
        build_masking(make_config(probability=0.0), groups=GROUPS, patch_size=16, batch_size=3)
        is None
    )
    built = build_masking(make_config(), groups=GROUPS, patch_size=16, batch_size=16)
    assert built == BlockMasking((4, 4), 2, 8, 0.5, (0.1, 0.5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group_size": 5}, r"group_size \(5\) must divide the 16 images of a pass; try .*=1"),
        ({"group_size": 0}, r"group_size \(0\) must divide the 16"),
        ({"probability": 1.5}, r"probability \(1.5\) must be in \[0, 1\]"),
        ({"ratio": (0.5, 0.1)}, r"ratio \(0.5, 0.1\) must rise within"),
        ({"kind": "blok"}, r"config\.masking\.kind is 'blok'; did you mean 'block'"),
        ({"kind": "random"}, r"probability \(0.5\) must be 1.0 for kind 'random'"),
        (
            {"kind": "random", "probability": 1.0, "ratio": (0.0, 0.99)},
            r"ratio \(\(0.0, 0.99\)\) keeps 0 of the 16 patches",
        ),
        (
            {"kind": "random", "probability": 1.0, "ratio": (0.0, 0.0)},
            "keeps 16 of the 16 patches",
        ),
        ({"group_size": 1, "probability": 0.4}, "masks no patch of a grid of"),
    ],
)
def test_values_out_of_range_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        build_masking(make_config(**changes), groups=GROUPS, patch_size=16, batch_size=16)


def test_without_a_group_to_mask_masks_are_an_error():
    groups = MultiCrop({"view": CropConfig(group="views")}).groups
    with pytest.raises(ValueError, match=r"crops of the group 'global', config\.augment"):
        build_masking(make_config(), groups=groups, patch_size=16, batch_size=16)


MAE = dict(probability=1.0, ratio=(0.75, 0.75))


def test_random_masks_keep_the_same_number_of_patches_everywhere():
    masking = RandomMasking((14, 14), 2, 8, **MAE)
    drawn = masking(0, 0, 0)
    layout = masking.layout(8)
    assert {name: (array.shape, array.dtype) for name, array in drawn.items()} == layout
    visible, masks = drawn["visible"], drawn["masks"]
    assert visible.shape == (8, 2, 49)
    assert (np.diff(visible, axis=-1) > 0).all()
    for image, crop in np.ndindex(8, 2):
        np.testing.assert_array_equal(np.flatnonzero(~masks[image, crop]), visible[image, crop])
    np.testing.assert_array_equal(drawn["mask_indices"][0], np.flatnonzero(masks))
    np.testing.assert_array_equal(drawn["mask_weight"], np.float32(1 / 147))


def test_every_patch_is_kept_equally_often():
    masking = RandomMasking((4, 4), 1, 1000, **MAE)
    kept = 1 - masking(3, 5, 0)["masks"].mean(axis=(0, 1))
    # 5 standard deviations of the mean of 1000 draws with p = 1/4.
    np.testing.assert_allclose(kept, 0.25, atol=5 * (0.25 * 0.75 / 1000) ** 0.5)


@pytest.mark.parametrize(("patches", "share", "kept"), [(196, 0.75, 49), (100, 0.9, 9)])
def test_the_number_of_visible_patches_is_cut_off_as_in_the_official_code(patches, share, kept):
    assert RandomMasking((1, patches), 1, 1, 1.0, (share, share)).visible == kept


def test_random_masks_depend_on_seed_step_and_image_but_not_on_the_group_size():
    four, two = (RandomMasking((8, 8), 2, size, **MAE) for size in (4, 2))
    whole = pickle.loads(pickle.dumps(four))(0, 0, 1)["visible"]
    halves = [two(0, 0, group)["visible"] for group in (2, 3)]
    np.testing.assert_array_equal(whole, np.concatenate(halves))
    for other in (four(1, 0, 1), four(0, 1, 1), four(0, 0, 0)):
        assert (other["visible"] != whole).any()


def test_the_kinds_are_a_table_that_takes_others(monkeypatch):
    monkeypatch.setitem(MASKINGS, "mine", lambda **options: options)
    config = MaskingConfig(kind="mine", probability=0.5, group_size=4)
    built = build_masking(config, groups=GROUPS, patch_size=16, batch_size=16)
    assert built == dict(grid=(4, 4), crops=2, group_size=4, probability=0.5, ratio=(0.1, 0.5))
    config = MaskingConfig(kind="random", probability=1.0, ratio=(0.0, 0.75), group_size=4)
    built = build_masking(config, groups=GROUPS, patch_size=16, batch_size=16)
    assert built == RandomMasking((4, 4), 2, 4, 1.0, (0.0, 0.75))
