"""What does not fit together is an error before anything is compiled."""

import dataclasses

import jax
import pytest
from ml_collections import ConfigDict

from configs import digits_dinov2, quickstart
from dino_jax.config.defaults import to_config_dict
from dino_jax.data.augment import CropConfig
from dino_jax.objectives import gram
from dino_jax.step.health import build_measures
from dino_jax.step.needs import check_drop_path, count_views
from dino_jax.step.recipe import build_recipe
from dino_jax.step.roles import RoleConfig


def build(config: ConfigDict):
    return build_recipe(config, 1438)


def with_random_masks() -> ConfigDict:
    """DINOv2 on digits, with masks that a role can drop."""
    config = digits_dinov2.get_config()
    config.masking.update(kind="random", probability=1.0)
    return config


def with_third_role() -> ConfigDict:
    """DINOv2 on digits with a role that sees local crops, read by nobody."""
    config = digits_dinov2.get_config()
    config.roles.third = to_config_dict(RoleConfig(follow="averages", sees=("local",)))
    return config


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_an_objective_on_patches_refuses_a_role_that_drops_some(role):
    config = with_random_masks()
    assert build(config).masking is not None
    config.roles[role].masked = "drop"
    message = rf"objectives.ibot needs all patches .* use --config.roles.{role}.masked=hide"
    with pytest.raises(ValueError, match=message):
        build(config)
    del config.objectives.ibot
    assert build(config).roles[role].masked == "drop"


def without_global_crops(config: ConfigDict) -> None:
    for name in ("global_1", "global_2"):
        config.augment.crops[name].count = 0


def test_a_role_without_drawn_crops_is_refused():
    config = quickstart.get_config()
    without_global_crops(config)
    message = r"roles.teacher sees \('global',\): .* no global crops; set .*crops.global_1.count=1"
    with pytest.raises(ValueError, match=message):
        build(config)
    config.roles.teacher.sees = ("global", "local")
    recipe = build(config)
    assert recipe.views == {"global": 0, "local": config.augment.crops.local.count}


def test_an_objective_on_a_group_without_crops_is_refused():
    config = quickstart.get_config()
    config.roles.teacher.sees = ("global", "local")
    config.objectives.koleo = ConfigDict(dict(kind="koleo", weight=0.1, group_size=0))
    assert "koleo" in build(config).objectives
    without_global_crops(config)
    message = r"objectives.koleo needs global crops: .*--config.augment.crops.global_1.count=1"
    with pytest.raises(ValueError, match=message):
        build(config)


def test_the_crop_to_draw_is_one_with_a_box_of_its_own():
    crops = {"a": CropConfig("x", box_of="b", count=0), "b": CropConfig("x", 3), "c": CropConfig()}
    assert count_views(crops) == {"x": 3, "global": 1}
    config = quickstart.get_config()
    config.augment.crops.another = ConfigDict(config.augment.crops.global_1.to_dict())
    config.augment.crops.another.update(box_of="global_1", count=0)
    without_global_crops(config)
    with pytest.raises(ValueError, match=r"set --config.augment.crops.global_1.count=1"):
        build(config)


def test_health_measures_the_first_group_that_has_crops():
    roles = build(quickstart.get_config()).roles
    roles["teacher"] = dataclasses.replace(roles["teacher"], sees=("global", "local"))
    measured = []

    class Branch:
        def of_group(self, group):
            measured.append(group)
            raise StopIteration

    for views in ({"global": 2, "local": 4}, {"global": 0, "local": 4}):
        first, *_ = build_measures(roles, "teacher", views)
        with pytest.raises(StopIteration):
            first({"teacher": Branch()})
    assert measured == ["global", "local"]


@pytest.mark.parametrize("kind", ["dino", "ibot"])
def test_prototypes_on_the_output_of_another_head_are_refused(kind):
    config = digits_dinov2.get_config()
    heads = config.network.heads
    heads.other = ConfigDict(heads.dino.to_dict() | {"of": "dino"})
    config.objectives[kind].head = "other"
    message = rf"config.objectives.{kind}.head is 'other', .* head 'dino'; .*heads.other.of to cls"
    with pytest.raises(ValueError, match=message):
        build(config)
    for feature in ("cls", "patches"):
        heads.other.of = feature
        assert build(config).objectives[kind].head == "other"


@pytest.mark.parametrize("masked", ["drop", "hide"])
def test_masks_that_a_role_never_gets_are_refused(masked):
    config = with_third_role()
    config.masking.update(kind="random", probability=1.0)
    config.roles.third.masked = masked
    message = rf"roles.third.masked is '{masked}', .*sees \('local',\); .*--config.roles.third.mask"
    with pytest.raises(ValueError, match=message):
        build(config)
    config.roles.third.sees = ("local", "global")
    assert build(config).roles["third"].masked == masked


def test_without_masks_nothing_is_hidden_and_no_token_is_needed():
    config = quickstart.get_config()
    config.roles.student.masked = "hide"
    assert not config.network.backbone.has_mask_token
    assert build(config).masking is None
    config.roles.third = to_config_dict(RoleConfig(sees=("local",), masked="hide"))
    assert build(config).roles["third"].masked == "hide"


def test_a_group_that_is_named_twice_is_refused():
    config = quickstart.get_config()
    config.roles.student.sees = ("global", "local", "global")
    message = r"roles.student.sees names a group twice, .*use \('global', 'local'\)"
    with pytest.raises(ValueError, match=message):
        build(config)


def test_a_drop_path_group_that_does_not_divide_a_pass_is_refused():
    config = digits_dinov2.get_config()
    locals_ = config.augment.crops.local.count
    config.network.backbone.drop_path_group = 48
    counts = rf"'global': {2 * config.batch_size}, 'local': {locals_ * config.batch_size}"
    message = rf"roles.student must divide .*{counts}.* got 48; use .*drop_path_group=16"
    with pytest.raises(ValueError, match=message):
        build(config)
    config.network.backbone.drop_path_group = 16
    assert build(config).roles["student"].draws


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.network.backbone.update(drop_path_kind="per_sample"),
        lambda c: c.network.backbone.update(drop_path_rate=0.0),
        lambda c: c.roles.student.update(drop_path=False),
        lambda c: c.network.backbone.update(drop_path_group=None),
    ],
)
def test_no_group_is_needed_where_no_subset_is_drawn(change):
    config = digits_dinov2.get_config()
    config.network.backbone.drop_path_group = 48
    change(config)
    build(config)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("group", [8, 16, 3])
def test_a_drop_path_group_is_refused_exactly_where_the_pass_fails(group, apart):
    """With views apart the samples of a pass are those of one view."""
    config = digits_dinov2.get_config()
    config.network.backbone.update(depth=1, drop_path_group=16)
    recipe, images = build(config), 8
    student = recipe.roles["student"]
    network = student.network.clone(backbone=student.network.backbone.clone(drop_path_group=group))
    roles = {"student": dataclasses.replace(student, network=network, sees=("global",))}
    samples = images if apart else images * recipe.views["global"]

    def trace(images):
        rngs = {"params": jax.random.key(0), "drop_path": jax.random.key(1)}
        return network.backbone.init(rngs, images)

    def check():
        check_drop_path(roles, recipe.views, images, apart=apart)

    def run():
        shape = jax.ShapeDtypeStruct((samples, *recipe.crop_shape), "float32")
        jax.eval_shape(trace, shape)

    for call in (check, run):
        if samples % group:
            with pytest.raises(ValueError, match=r"drop_path_group"):
                call()
        else:
            call()


def with_anchor() -> ConfigDict:
    """DINOv2 on digits with Gram anchoring to a copy that sees crops of its own."""
    config = digits_dinov2.get_config()
    for name in ("global_1", "global_2"):
        config.augment.crops[name.replace("global", "gram")] = to_config_dict(
            CropConfig(group="gram", size=(64, 64), box_of=name)
        )
    config.roles.gram = to_config_dict(RoleConfig(follow="copies", sees=("gram",)))
    config.objectives.gram = to_config_dict(gram.Config())
    return config


def test_gram_anchoring_needs_crops_with_the_boxes_of_the_global_ones():
    assert build(with_anchor()).crop_sizes["gram"] == (64, 64)
    config = with_anchor()
    config.augment.crops.gram_1.box_of, config.augment.crops.gram_2.box_of = "global_2", "global_1"
    with pytest.raises(ValueError, match=r"take those of \['global_2', 'global_1'\]; let each"):
        build(config)
    config.augment.crops.gram_1.box_of = ""
    with pytest.raises(ValueError, match="compares gram crops with the global ones of the same"):
        build(config)


def test_an_anchor_must_see_its_crops_or_the_global_ones():
    config = with_anchor()
    config.roles.gram.sees = ("global",)
    with pytest.raises(ValueError, match=r"gram needs the crops \['gram'\] of config.roles.gram"):
        build(config)
    config.objectives.gram.crops = "global"
    assert build(config).roles["gram"].sees == ("global",)


def test_koleo_needs_as_many_images_as_neighbors():
    config = digits_dinov2.get_config()
    config.objectives.koleo.update(group_size=0, neighbors=config.batch_size + 1)
    with pytest.raises(ValueError, match=r"koleo needs at least \d+ images in a pass"):
        build(config)
