"""The crops of version 0.1 in today's form."""

import copy

from dino_jax.config.section import section
from dino_jax.config.upgrade import upgrade
from dino_jax.data.multi_crop import AugmentConfig, build_multi_crop

CROP = {
    "count": 1,
    "size": [32, 32],
    "scale": [0.6, 1.0],
    "ratio": [0.75, 4 / 3],
    "flip": 0.0,
    "jitter": 0.8,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.0,
    "hue": 0.0,
    "grayscale": 0.0,
    "blur": 1.0,
    "blur_radius": [0.1, 0.5],
    "solarize": 0.0,
    "solarize_threshold": 128,
}
OLD = {
    "augment": {
        "backend": "device",
        "blur": "as_documented",
        "global_1": CROP,
        "global_2": {**CROP, "blur": 0.1},
        "local": {**CROP, "count": 2, "size": [16, 16]},
    }
}


def test_crops_become_a_table_with_their_groups():
    before = copy.deepcopy(OLD)
    config = section("config.augment", upgrade(OLD)["augment"], AugmentConfig)
    assert before == OLD
    assert config.backend == "device"
    groups = build_multi_crop(config).groups
    drawn = {name: [crop.key for crop in group.crops] for name, group in groups.items()}
    assert drawn == {
        "global": [("global_1", 0), ("global_2", 0)],
        "local": [("local", 0), ("local", 1)],
    }
    assert {name: group.size for name, group in groups.items()} == {
        "global": (32, 32),
        "local": (16, 16),
    }
    assert config.crops["global_2"].blur == 0.1


def test_a_config_of_today_stays_as_it_is():
    config = {"augment": {"crops": {"mine": {"group": "views"}}}, "format": 1}
    assert upgrade(config)["augment"] == config["augment"]
