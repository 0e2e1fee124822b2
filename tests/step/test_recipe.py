"""Every config: the official command line, the released recipes, and parts that can be built."""

import importlib
import json
import runpy
from pathlib import Path

import jax
import pytest

from configs import quickstart, vits16_boosted, vits16_vanilla
from dino_jax.commands.config_from_yaml import convert
from dino_jax.data.multi_crop import build_multi_crop
from dino_jax.models.build import build_network
from dino_jax.run.whole_config import complete_config
from dino_jax.step.recipe import build_recipe, describe_recipe
from dino_jax.workdir.config_json import config_to_json

IMAGENET_IMAGES = 1_281_167
CONFIGS = {path.stem: path for path in (Path(__file__).parents[2] / "configs").glob("*.py")}


def load(name):
    return complete_config(importlib.import_module(f"configs.{name}").get_config())


# Flag of the official main_dino.py -> our values, one or several, that it stands for.
FLAGS = {
    "arch": lambda c: f"{c.network.backbone.kind}_{c.network.backbone.size}",
    "patch_size": lambda c: c.network.backbone.patch_size,
    "out_dim": lambda c: c.network.heads.dino.out_dim,
    "norm_last_layer": lambda c: not c.network.heads.dino.train_gain,
    "momentum_teacher": lambda c: c.roles.teacher.momentum,
    "use_bn_in_head": lambda c: c.network.heads.dino.batch_norm,
    "warmup_teacher_temp": lambda c: c.objectives.dino.warmup_teacher_temperature,
    "teacher_temp": lambda c: c.objectives.dino.teacher_temperature,
    "warmup_teacher_temp_epochs": lambda c: c.objectives.dino.warmup_teacher_temperature_epochs,
    "weight_decay": lambda c: c.optimizer.weight_decay,
    "weight_decay_end": lambda c: c.optimizer.weight_decay_end,
    "clip_grad": lambda c: c.optimizer.clip_grad,
    "batch_size_per_gpu": lambda c: c.batch_size // 8,  # GPUs of the vanilla run
    "epochs": lambda c: c.epochs,
    "freeze_last_layer": lambda c: c.optimizer.freeze_last_layer_epochs,
    "lr": lambda c: c.optimizer.lr,
    "warmup_epochs": lambda c: c.optimizer.warmup_epochs,
    "min_lr": lambda c: c.optimizer.min_lr,
    "optimizer": lambda c: c.optimizer.kind,
    "drop_path_rate": lambda c: c.network.backbone.drop_path_rate,
    "global_crops_scale": lambda c: list(c.augment.crops.global_1.scale),
    "local_crops_number": lambda c: c.augment.crops.local.count,
    "local_crops_scale": lambda c: list(c.augment.crops.local.scale),
    "seed": lambda c: c.seed,
}
WITHOUT_COUNTERPART = {
    "use_fp16": "activations are bfloat16, which needs no loss scaling",
    "data_path": "a placeholder there; ours is empty and asked for",
    "output_dir": "--workdir",
    "saveckp_freq": "counts epochs; ours counts steps (runtime.save_every_steps)",
    "num_workers": "how it runs, not what it computes (runtime.workers)",
    "dist_url": "jax.distributed",
    "local_rank": "ignored there, too",
}


@pytest.fixture(scope="module")
def official():
    path = Path(__file__).parents[1] / "golden" / "v1" / "cli_defaults_main_dino.json"
    return {flag: entry["default"] for flag, entry in json.loads(path.read_text()).items()}


def test_every_official_flag_is_accounted_for(official):
    assert official.keys() == FLAGS.keys() | WITHOUT_COUNTERPART.keys()


@pytest.mark.parametrize("flag", FLAGS)
def test_the_vanilla_config_has_the_official_defaults(official, flag):
    assert FLAGS[flag](vits16_vanilla.get_config()) == official[flag]


def test_what_is_fixed_in_the_official_code_has_its_value():
    config = vits16_vanilla.get_config()
    assert config.objectives.dino.student_temperature == 0.1
    assert config.objectives.dino.center_momentum == 0.9
    assert config.roles.teacher.momentum_end == 1.0
    adamw = config.optimizer.adamw
    assert (adamw.b1, adamw.b2, adamw.eps) == (0.9, 0.999, 1e-8)
    assert config.optimizer.reference_batch == 256
    head = config.network.heads.dino
    assert (head.hidden_dim, head.bottleneck_dim, head.layers) == (2048, 256, 3)
    both, second, local = (config.augment.crops[name] for name in ("global_1", "global_2", "local"))
    assert (both.count, second.count) == (1, 1)
    assert (both.size, second.size, local.size) == ((224, 224), (224, 224), (96, 96))
    assert (both.blur, second.blur, local.blur) == (1.0, 0.1, 0.5)
    assert (both.solarize, second.solarize, local.solarize) == (0.0, 0.2, 0.0)
    for crop in (both, second, local):
        assert (crop.flip, crop.jitter, crop.grayscale) == (0.5, 0.8, 0.2)
        jitter = (crop.brightness, crop.contrast, crop.saturation, crop.hue)
        assert jitter == (0.4, 0.4, 0.2, 0.1)
        assert (crop.blur_radius, crop.solarize_threshold) == ((0.1, 2.0), 128)
        assert crop.ratio == (3 / 4, 4 / 3)


def test_the_boosted_config_differs_from_the_vanilla_one_as_the_readme_says():
    vanilla, boosted = vits16_vanilla.get_config(), vits16_boosted.get_config()
    vanilla.epochs, vanilla.batch_size = 300.0, 1024
    vanilla.objectives.dino.teacher_temperature = 0.07
    vanilla.objectives.dino.warmup_teacher_temperature_epochs = 30
    vanilla.network.heads.dino.train_gain = True
    assert config_to_json(boosted) == config_to_json(vanilla)


# The recipes of the released checkpoints (args.txt), in the order of COLUMNS.
COLUMNS = (
    *("epochs", "out_dim", "norm_last_layer", "warmup_teacher_temp", "teacher_temp"),
    *("warmup_teacher_temp_epochs", "optimizer", "lr", "min_lr", "warmup_epochs"),
    *("weight_decay", "weight_decay_end", "clip_grad", "freeze_last_layer"),
    *("global_crops_scale", "local_crops_scale", "local_crops_number", "momentum_teacher"),
    *("drop_path_rate", "use_bn_in_head", "arch", "patch_size"),
)
RELEASED = {
    "vits16_released": (
        *(800, 65536, False, 0.04, 0.07, 30, "adamw", 5e-4, 1e-5, 10, 0.04, 0.4, 0, 1),
        *([0.25, 1], [0.05, 0.25], 10, 0.996, 0.1, False, "vit_small", 16),
    ),
    "vits8_released": (
        *(800, 65536, False, 0.04, 0.07, 30, "adamw", 5e-4, 1e-6, 10, 0.04, 0.4, 3.0, 1),
        *([0.4, 1], [0.05, 0.4], 10, 0.996, 0.1, False, "vit_small", 8),
    ),
    "vitb16_released": (
        *(400, 65536, True, 0.04, 0.07, 50, "adamw", 7.5e-4, 2e-6, 10, 0.04, 0.4, 0.3, 3),
        *([0.25, 1], [0.05, 0.25], 10, 0.996, 0.1, False, "vit_base", 16),
    ),
    "vitb8_released": (
        *(300, 65536, True, 0.03, 0.07, 50, "adamw", 5e-4, 2e-6, 10, 0.04, 0.4, 3.0, 3),
        *([0.25, 1], [0.05, 0.25], 10, 0.996, 0.1, False, "vit_base", 8),
    ),
}


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_recipe_has_the_values_of_its_checkpoint(name):
    config = load(name)
    ours = {flag: FLAGS[flag](config) for flag in COLUMNS}
    assert ours == dict(zip(COLUMNS, RELEASED[name], strict=True))
    assert config.batch_size == 1024
    assert config.network.dtype == "float32"
    assert config.augment.crops.global_1.scale == config.augment.crops.global_2.scale


def test_the_released_resnet_has_the_values_of_its_checkpoint():
    config = load("resnet50_released")
    expected = (800, 60000, True, 0.04, 0.07, 50, "lars", 0.3, 0.0048, 10, 1e-6, 1e-6, 0, 1)
    expected += ([0.14, 1], [0.05, 0.14], 6, 0.996)
    flags = COLUMNS[: len(expected)]
    assert tuple(FLAGS[flag](config) for flag in flags) == expected
    assert FLAGS["use_bn_in_head"](config) and config.batch_size == 51 * 80


# What the official vitl14.yaml and vitg14.yaml change.
VITL14 = """
dino: {head_n_prototypes: 131072, head_bottleneck_dim: 384}
ibot: {separate_head: true, head_n_prototypes: 131072}
train: {batch_size_per_gpu: 32, centering: sinkhorn_knopp}
student: {patch_size: 14, drop_path_rate: 0.4, ffn_layer: swiglufused}
teacher: {momentum_teacher: 0.994}
optim: {epochs: 500, base_lr: 2.0e-4, warmup_epochs: 80, weight_decay_end: 0.2, layerwise_decay: 1}
crops: {local_crops_size: 98}
"""
VITG14 = VITL14.replace("gpu: 32", "gpu: 12").replace("{patch", "{arch: vit_giant2, patch")
OFFICIAL = {"vitl16_short": ("", 32), "vitl14": (VITL14, 96), "vitg14": (VITG14, 256)}


@pytest.mark.parametrize("name", OFFICIAL)
def test_a_dinov2_config_is_the_official_one_converted(name, tmp_path):
    text, gpus = OFFICIAL[name]
    (tmp_path / "converted.py").write_text(convert(text.encode(), name, gpus)[0])
    converted = runpy.run_path(str(tmp_path / "converted.py"))["get_config"]()
    ours = load(name)
    ours.runtime = converted.runtime  # how, not what
    ours.network.backbone.update(remat="none", scan_unroll=0)
    assert config_to_json(ours) == config_to_json(converted)


# Backbone, and head: three linear layers, K = 65,536 prototypes, a gain each where it is trained.
HEAD_SMALL = (384 + 1) * 2048 + (2048 + 1) * 2048 + (2048 + 1) * 256 + 65_536 * 256
HEAD_BASE = HEAD_SMALL + (768 - 384) * 2048
GAINS = 65_536
HEAD_RESNET = 2 * (2048 + 3) * 2048 + (2048 + 1) * 256 + 60_000 * 256  # with two BatchNorms
HEAD_V2 = (1024 + 1) * 2048 + (2048 + 1) * 2048 + (2048 + 1) * 384 + 131_072 * (384 + 1)
# What 24 layers of SwiGLU (hidden 2736) have more than MLPs (hidden 4096).
SWIGLU_LARGE = 24 * (3 * 2736 * 1024 + 2 * 2736 - 2 * 4096 * 1024 - 4096)
PARAMETERS = {
    "vits16_vanilla": (21_665_664, HEAD_SMALL),
    "vits16_boosted": (21_665_664, HEAD_SMALL + GAINS),
    "vits16_released": (21_665_664, HEAD_SMALL + GAINS),
    "vits8_released": (21_670_272, HEAD_SMALL + GAINS),
    "vitb16_released": (85_798_656, HEAD_BASE),
    "vitb8_released": (85_807_872, HEAD_BASE),
    "resnet50_released": (23_508_032, HEAD_RESNET),  # torchvision's without fc
    # Released weights have a position table of 37 x 37 patches, ours one of 16 x 16.
    "vitl14": (304_368_640 - 1113 * 1024 + SWIGLU_LARGE, HEAD_V2),
    "vitg14": (1_136_480_768 - 1113 * 1536, HEAD_V2 + 512 * 2048),
}


# Networks of the frozen roles, as the configs that they name build them.
FROZEN = {
    "digits_distilled": lambda: {"frozen_teacher": build_network(load("quickstart").network)},
    "vits14_distilled": lambda: {"frozen_teacher": build_network(load("vitg14").network)},
}


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_a_config_builds_and_says_what_it_is(name):
    config = load(name)
    images = 1438 if config.data.kind == "digits" else IMAGENET_IMAGES
    recipe = build_recipe(config, images, FROZEN.get(name, dict)())
    state = jax.eval_shape(recipe.init, jax.random.key(0))
    groups = build_multi_crop(config.augment).groups
    assert len(groups["global"].crops) == (1 if "mae" in recipe.objectives else 2)
    params = state.networks["student"]["params"]
    counts = [count(tree) for tree in params.values()]
    if name in PARAMETERS:
        assert (count(params["backbone"]), count(params["heads_dino"])) == PARAMETERS[name]
        assert recipe.steps_per_epoch in (1250, IMAGENET_IMAGES // config.batch_size)
    text = "\n".join(describe_recipe(recipe, config, state))
    names = [module.replace("heads_", "head ") for module in params]
    parameters = [f"{module} {number:,}" for module, number in zip(names, counts, strict=True)]
    assert ", ".join(parameters) in text
    assert f"= {recipe.total_steps} steps of {config.batch_size} images" in text
    optimizer = config.optimizer
    ratio = config.batch_size / optimizer.reference_batch
    word, factor = {"linear": ("x", ratio), "sqrt": ("x the root of", ratio**0.5)}[
        optimizer.lr_scaling
    ]
    batch = f"batch {config.batch_size} / {optimizer.reference_batch}"
    if "lr" in optimizer.parts:
        peak, end = optimizer.parts.lr.peak, optimizer.parts.lr.end
        scaled = f"{peak * factor:g}, {end * factor:g}"
        assert f"base {peak:g}, then {end:g} {word} {batch} = {scaled}; line from" in text
        assert recipe.schedules["lr"](recipe.total_steps - 1) == pytest.approx(end * factor)
        return
    peak = optimizer.lr * factor
    assert f"base {optimizer.lr:g} {word} {batch} = {peak:g}" in text
    assert abs(recipe.schedules["lr"](recipe.total_steps // 2) / peak) < 1


def test_the_sizes_of_the_specification_have_their_parameters():
    config = vits16_vanilla.get_config()
    config.network.backbone.size = "tiny"
    for patch_size, expected in ((16, 5_524_416), (8, 5_526_720)):
        config.network.backbone.patch_size = patch_size
        state = jax.eval_shape(build_recipe(config, IMAGENET_IMAGES).init, jax.random.key(0))
        assert count(state.networks["student"]["params"]["backbone"]) == expected


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_a_config_says_where_it_is_from_and_how_to_run_it(name):
    docstring = CONFIGS[name].read_text().split('"""')[1]
    assert f"--config={name} " in docstring
    assert f"--workdir=runs/{name}" in docstring
    for words in ("Paper: ", "Expected", "Hardware and time: ", "dino-jax train"):
        assert words in docstring


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c.update(batch_size=2000),
            r"\(2000\) is larger than the data set",
        ),
        (lambda c: c.update(epochs=0.0), r"config.epochs \(0.0\) gives no steps"),
        (lambda c: c.roles.teacher.update(momentum=1.5), "must be at least 0 and at most 1"),
        (lambda c: c.augment.crops.local.update(size=(16, 4)), "less than one patch of 8 pixels"),
        (
            lambda c: c.augment.crops.local.update(size=(16,)),
            r"augment.crops.local.size must be 2 integers in \(…\), got \(16,\)",
        ),
        (
            lambda c: c.augment.crops.update({"global_1": {"count": 0}, "local": {"count": 0}}),
            "must see at least 2",
        ),
        (lambda c: c.optimizer.update(warmup_epochs=1e3), "longer than the run"),
        (lambda c: c.objectives.update(moco={"head": "dino"}), "unknown objective 'moco'; known:"),
    ],
)
def test_what_does_not_fit_is_a_clear_error(change, message):
    config = quickstart.get_config()
    change(config)
    with pytest.raises(ValueError, match=message):
        build_recipe(config, 1438)
