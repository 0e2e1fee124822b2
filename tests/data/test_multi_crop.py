"""The set of crops of one image."""

import dataclasses
import io
import pickle

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import vits16_vanilla
from dino_jax.config.section import section
from dino_jax.data.augment import CropParameters, sample_crop_parameters
from dino_jax.data.multi_crop import (
    AugmentConfig,
    MultiCrop,
    allocate,
    apply_crop,
    build_multi_crop,
    check_patches,
)
from dino_jax.data.recolor import BLUR
from tests import plain_augment
from tests.crops import OFFICIAL

GLOBAL = dataclasses.replace(OFFICIAL, group="global", size=(8, 8), scale=(0.4, 1.0))
LOCAL = dataclasses.replace(GLOBAL, group="local", count=3, size=(4, 6))
CROPS = {"global_1": GLOBAL, "global_2": GLOBAL, "local": LOCAL}
PLAIN = dict(jitter=0.0, grayscale=0.0, blur=0.0, solarize=0.0)
IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def _crops(**changes):
    """`CROPS` with changes of some of them, or further ones."""
    return CROPS | {
        name: dataclasses.replace(CROPS.get(name, GLOBAL), **change)
        for name, change in changes.items()
    }


def _draw(multi_crop, seed=0, frames=IMAGE):
    batch = allocate(multi_crop, 1)
    multi_crop.begin(batch, np.random.default_rng(7))
    multi_crop.fill(batch, 0, frames, np.random.default_rng(seed))
    return {name: rows[0] for name, rows in batch.items()}


def test_crops_have_the_configured_counts_and_sizes():
    views = _draw(MultiCrop(CROPS))
    shapes = {name: (crops.shape, crops.dtype) for name, crops in views.items()}
    assert shapes == {
        "global_crops": ((2, 8, 8, 3), np.uint8),
        "local_crops": ((3, 4, 6, 3), np.uint8),
    }


def test_the_device_back_end_adds_parameters_and_an_order_per_crop():
    views = _draw(MultiCrop(CROPS, "device"))
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
    for _ in range(50):
        parameters = sample_crop_parameters(rng, LOCAL, *image.shape[:2])
        expected = plain_augment.apply_crop(
            Image.fromarray(image), parameters, LOCAL, plain_augment.resize_horizontally_first
        )
        np.testing.assert_array_equal(apply_crop(image, parameters, LOCAL), expected)


@pytest.mark.parametrize(
    ("key", "box"),
    [("crop_resize", (7, 11, 57, 72)), ("crop_resize_up", (20, 30, 41, 47))],
)
def test_crop_and_resize_equal_the_recorded_ones_bit_by_bit(golden, key, box):
    arrays = golden("v1/aug_pil")
    config = dataclasses.replace(LOCAL, size=(64, 64))
    crop = apply_crop(arrays["img"], CropParameters(box, False, (), False, None, False), config)
    np.testing.assert_array_equal(crop, arrays[key])


def test_crops_are_drawn_one_after_the_other_by_group_and_name():
    rng = np.random.default_rng(5)
    order = [("global_crops", GLOBAL)] * 2 + [("local_crops", LOCAL)] * 3
    expected = {"global_crops": [], "local_crops": []}
    for name, config in order:
        parameters = sample_crop_parameters(rng, config, *IMAGE.shape[:2])
        expected[name].append(apply_crop(IMAGE, parameters, config))
    for name, crops in _draw(MultiCrop(CROPS), seed=5).items():
        np.testing.assert_array_equal(crops, expected[name])


@pytest.mark.parametrize("backend", ["host", "device"])
def test_the_order_in_which_a_config_names_the_crops_changes_nothing(backend):
    views = _draw(MultiCrop(CROPS, backend))
    for name, entry in _draw(MultiCrop(dict(reversed(CROPS.items())), backend)).items():
        np.testing.assert_array_equal(entry, views[name])


def test_without_local_crops_the_key_is_absent():
    assert set(_draw(MultiCrop(_crops(local={"count": 0})))) == {"global_crops"}


def test_the_same_generator_state_gives_the_same_crops_after_pickling():
    multi_crop = MultiCrop(CROPS)
    first = _draw(multi_crop)
    second = _draw(pickle.loads(pickle.dumps(multi_crop)))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_crops_of_one_image_differ_from_each_other():
    views = _draw(MultiCrop(CROPS))["local_crops"]
    assert len({view.tobytes() for view in views}) == 3


@pytest.mark.parametrize("backend", ["host", "device"])
def test_a_crop_with_the_box_of_another_shows_the_same_in_another_size(backend):
    plain = {name: dataclasses.replace(crop, **PLAIN) for name, crop in CROPS.items()}
    large = dataclasses.replace(plain["local"], group="gram", size=(16, 24), box_of="local")
    multi_crop = MultiCrop(plain | {"a_large": large}, backend)
    views, before = _draw(multi_crop), _draw(MultiCrop(plain, backend))
    drawn = multi_crop.sample(np.random.default_rng(0), [IMAGE.shape[:2]])
    expected = [apply_crop(IMAGE, drawn["local", number], large) for number in range(3)]
    np.testing.assert_array_equal(views["gram_crops"], expected)
    assert before.keys() == {name for name in views if not name.startswith("gram")}
    for name, entry in before.items():  # the others' draws are what they were
        np.testing.assert_array_equal(entry, views[name])


def test_crops_come_from_the_frame_that_they_name():
    frames = [np.full((20, 30 + level, 3), level, np.uint8) for level in (10, 20, 30)]
    crops = {
        name: dataclasses.replace(GLOBAL, frame=frame, **PLAIN)
        for name, frame in (("a", 0), ("b", 1), ("c", 2), ("d", 4))
    }
    views = _draw(MultiCrop(crops), frames=frames)["global_crops"]
    assert [np.unique(view).tolist() for view in views] == [[10], [20], [30], [20]]
    stills = _draw(MultiCrop(crops), frames=frames[0])["global_crops"]
    assert np.unique(stills).tolist() == [10]


def test_one_frame_is_the_same_as_an_image():
    views = _draw(MultiCrop(CROPS), frames=[IMAGE])
    for name, entry in _draw(MultiCrop(CROPS)).items():
        np.testing.assert_array_equal(entry, views[name])


def test_the_vanilla_config_states_the_defaults():
    config = vits16_vanilla.get_config().augment
    assert section("config.augment", config, AugmentConfig) == AugmentConfig()
    assert build_multi_crop(config) == build_multi_crop(AugmentConfig())


def test_dinov2_blurs_with_the_inverse_of_the_probability_it_names():
    for name, blurs in (("as_documented", [1.0, 0.1, 0.5]), ("as_trained", [0.0, 0.9, 0.5])):
        crops = build_multi_crop(AugmentConfig(blur=name)).crops
        assert [crop.blur for crop in crops.values()] == blurs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"global_2": {"size": (9, 9)}}, r"group 'global' must .*'global_1': \(8, 8\), 'global_2'"),
        ({name: {"count": 0} for name in CROPS}, "no crop with a count above 0"),
        ({"local": {"scale": (0.9, 0.4)}}, r"crops\.local\.scale must be \(low, high\), got \(0.9"),
        ({"local": {"group": "the small"}}, r"crops\.local\.group must be a name"),
        ({"x": {"box_of": "globl"}}, r"x\.box_of is 'globl'; crops with a box of their own: glo"),
        ({"x": {"box_of": "x"}}, r"x\.box_of is 'x'"),
        ({"x": {"same_colors": True}}, r"x\.same_colors needs the name of a crop in .*x\.box_of"),
        ({"x": {"box_of": "local"}}, r"crops\.x has count 1 and frame 0, but local, .*has 3 and 0"),
        ({"x": {"box_of": "global_1", "frame": 1}}, r"crops\.x has count 1 and frame 1, but"),
    ],
)
def test_crops_that_do_not_fit_together_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        MultiCrop(_crops(**changes))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("flip", 1.5, "at least 0 and at most 1"),
        ("scale", (0.0, 1.0), "above 0"),
        ("ratio", (0.0, 1.0), "at least 0.01"),
        ("hue", 0.6, "at most 0.5"),
        ("size", (0, 4), "at least 1"),
        ("count", -1, "at least 0"),
        ("brightness", -0.1, "at least 0"),
        ("blur_radius", (-1.0, 2.0), "at least 0"),
        ("flop", 1.0, "did you mean 'flip'"),
    ],
)
def test_values_out_of_range_are_named_in_the_error(name, value, message):
    config = ConfigDict({"crops": {"mine": {name: value}}}, convert_dict=True)
    with pytest.raises(ValueError, match=rf"config\.augment\.crops\.mine.*{name}.*{message}"):
        build_multi_crop(config)


def test_crops_smaller_than_a_patch_are_named():
    groups = MultiCrop(CROPS).groups
    check_patches(groups, 4)
    with pytest.raises(
        ValueError, match=r"crops\.local\.size \(4, 6\) is less than one patch of 5"
    ):
        check_patches(groups, 5)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((375, 500), 1),
        ((1500, 2000), 2),  # smallest local box 335 x 335
        ((3000, 4000), 4),  # 671
        ((9000, 8000), 8),
        ((480, 4000), 2),
        ((60, 100_000), 1),  # central boxes of 60 x 80
    ],
)
def test_images_are_reduced_as_far_as_no_crop_is_enlarged(size, expected):
    multi_crop = build_multi_crop(AugmentConfig(scaled_decoding=True))
    assert multi_crop.reduction(*size) == expected
    rng = np.random.default_rng(0)
    for _ in range(200):
        drawn = multi_crop.sample(rng, [size])
        for group in multi_crop.groups.values():
            for key, config in group.crops:
                left, top, right, bottom = drawn[key].box
                least = config.size if expected > 1 else (0, 0)
                assert (bottom - top) / expected >= least[0]
                assert (right - left) / expected >= least[1]


def test_a_crop_with_the_box_of_a_smaller_one_counts_too():
    crops = AugmentConfig().crops
    large = dataclasses.replace(crops["local"], group="gram", size=(192, 192), box_of="local")
    assert MultiCrop(crops).reduction(3000, 4000) == 4
    assert MultiCrop(crops | {"gram": large}).reduction(3000, 4000) == 2


@pytest.mark.parametrize("backend", ["host", "device", "canvas"])
def test_a_reduced_image_gives_the_same_boxes_and_nearly_the_same_crops(backend):
    y, x = np.mgrid[:203, :301] / 300
    smooth = np.stack([255 * y, 255 * x, 127 * (x + y)], -1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(smooth).save(file, "JPEG", quality=95, subsampling=0)
    crops = {name: dataclasses.replace(crop, **PLAIN) for name, crop in CROPS.items()}
    whole = MultiCrop(crops, backend, (203, 301))
    scaled = dataclasses.replace(whole, scaled_decoding=True)
    assert scaled.reduction(203, 301) == 8
    reduced = scaled.decode(file.getvalue(), 10**6)
    assert reduced.pixels.shape == (26, 38, 3)
    ours = _draw(scaled, frames=reduced)
    theirs = _draw(whole, frames=whole.decode(file.getvalue(), 10**6))
    assert ours.keys() == theirs.keys()
    for name, entry in theirs.items():
        if name.endswith("_boxes"):
            np.testing.assert_allclose(ours[name][:, :4], entry[:, :4] / 8, rtol=1e-6)
        elif name == "canvas":
            assert not ours[name][..., 26:, :].any() and not ours[name][..., 38:].any()
        else:
            assert np.abs(ours[name].astype(float) - entry).mean() < 1, name


@pytest.mark.parametrize("backend", ["host", "device"])
def test_a_crop_with_the_colors_of_another_is_the_same_picture(backend):
    """Gram crops with distortions: every random number of the other crop, in another size."""
    always = dict(jitter=1.0, grayscale=0.5, blur=0.5, solarize=0.5)
    crops = _crops(
        global_1=dict(size=(8, 8), **always), global_2=dict(count=0), local=dict(count=0)
    )
    twin = dataclasses.replace(crops["global_1"], group="gram", box_of="global_1", same_colors=True)
    for seed in range(6):
        views = _draw(MultiCrop({**crops, "gram_1": twin}, backend), seed)
        alone = _draw(MultiCrop(crops, backend), seed)
        for name in [name for name in views if name.startswith("global_")]:
            other = name.replace("global_", "gram_")
            np.testing.assert_array_equal(views[name], views[other], err_msg=name)
            np.testing.assert_array_equal(views[name], alone[name])
    larger = dataclasses.replace(twin, size=(16, 16), blur_radius=(0.2, 4.0))
    drawn = MultiCrop({**crops, "gram_1": larger}).sample(np.random.default_rng(3), [(20, 30)])
    own, its = drawn["global_1", 0], drawn["gram_1", 0]
    assert (own.box, own.jitter, own.solarize) == (its.box, its.jitter, its.solarize)
    assert not own.blur_radius or np.isclose(its.blur_radius, 2 * own.blur_radius)
