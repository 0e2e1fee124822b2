"""Official DINOv2 YAMLs become config files of ours; what does not fit is an error."""

import ast
import runpy

import numpy as np
import pytest
import yaml

from dino_jax.commands import config_from_yaml
from dino_jax.commands.config_from_yaml import convert, read_yaml
from dino_jax.commands.official_config import DEFAULTS, WITHOUT_COUNTERPART, translate
from dino_jax.foreign.names import printable
from dino_jax.models.build import build_network
from dino_jax.objectives.build import build_objectives
from dino_jax.objectives.centering import Center, Sinkhorn
from dino_jax.optim.optimizer import build_optimizer
from dino_jax.optim.schedules import Constant

LENGTH = dict(total_steps=125_000, steps_per_epoch=1250)
SEPARATE_HEADS = """
dino: {head_n_prototypes: 131072, head_bottleneck_dim: 384}
ibot: {separate_head: true, head_n_prototypes: 131072}
train: {batch_size_per_gpu: 32, dataset_path: "ImageNet:split=TRAIN:root=/data/in:extra=/x",
        centering: sinkhorn_knopp}
student: {patch_size: 14, drop_path_rate: 0.4, ffn_layer: swiglufused, block_chunks: 4}
optim: {epochs: 500, base_lr: 2e-4, warmup_epochs: 80, layerwise_decay: 1.0}
crops: {local_crops_size: 98}
"""
# Another valid value for every key of which a default is known.
OTHER = {
    "compute_precision.student.backbone.mixed_precision.param_dtype": "fp32",
    "ibot.mask_ratio_min_max": [0.2, 0.4],
    "train.dataset_path": "ImageNet22k:root=/data/in22k",
    "train.centering": "sinkhorn_knopp",
    "student.arch": "vit_small",
    "student.ffn_layer": "swiglu",
    "crops.global_crops_scale": [0.5, 1.0],
    "crops.local_crops_scale": [0.1, 0.5],
}


def load(source, tmp_path):
    path = tmp_path / "converted.py"
    path.write_text(source)
    return runpy.run_path(str(path))["get_config"]()


def nest(key, value):
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


def test_the_short_official_config_builds_its_recipe(tmp_path):
    source, notes = convert(b"train: {batch_size_per_gpu: 64}\nstudent: {block_chunks: 4}", "s", 32)
    assert len(notes) == 1 and notes[0].startswith("student.block_chunks has no counterpart")
    config = load(source, tmp_path)
    assert config.batch_size == 2048 and config.steps_per_epoch == 1250
    objectives = build_objectives(
        config.objectives, config.network.heads, learner="student", **LENGTH
    )
    assert list(objectives) == ["dino", "ibot", "koleo"]
    assert objectives["ibot"].head == objectives["dino"].head == "dino"
    assert objectives["ibot"].centering == Center(0.9)
    assert objectives["koleo"].weight == Constant(0.1) and objectives["koleo"].group_size == 64
    assert list(config.network.heads) == ["dino"]
    build_network(config.network)
    _, rates = build_optimizer(config.optimizer, batch_size=2048, **LENGTH)
    np.testing.assert_allclose(rates["lr"](12_499), 0.005656854249492381, rtol=1e-12)


def test_separate_heads_with_sinkhorn(tmp_path):
    source, _ = convert(SEPARATE_HEADS.encode(), "vitl14.yaml", 96)
    config = load(source, tmp_path)
    assert config.batch_size == 3072
    assert config.data.path == "/data/in/train"
    assert config.network.backbone.patch_size == 14
    assert config.network.backbone.ffn == "swiglu"
    heads = {
        name: (head.out_dim, head.bottleneck_dim) for name, head in config.network.heads.items()
    }
    assert heads == {"dino": (131072, 384), "ibot": (131072, 256)}
    objectives = build_objectives(
        config.objectives, config.network.heads, learner="student", **LENGTH
    )
    assert objectives["ibot"].head == "ibot"
    assert objectives["dino"].centering == objectives["ibot"].centering == Sinkhorn(3)
    assert config.optimizer.lr == 2e-4  # "2e-4" is text for YAML 1.1
    assert config.augment.crops.local.size == (98, 98)
    assert config.masking.group_size == config.objectives.koleo.group_size == 32


def test_objectives_of_weight_zero_are_left_out(tmp_path):
    text = "ibot: {loss_weight: 0.0}\ndino: {koleo_loss_weight: 0.0}"
    config = load(convert(text.encode(), "s", 1)[0], tmp_path)
    assert list(config.objectives) == ["dino"]


@pytest.mark.parametrize("key", DEFAULTS)
def test_every_known_key_has_an_effect(key):
    default = DEFAULTS[key]
    other = {bool: lambda x: not x, int: lambda x: x + 2, float: lambda x: x / 2 + 0.3}
    value = OTHER[key] if key in OTHER else other.get(type(default), lambda x: x)(default)
    changes = nest(key, value)
    if key.startswith("ibot.head_"):
        changes["ibot"]["separate_head"] = True
    if key.startswith("student.interpolate_"):
        changes["student"] |= {"interpolate_antialias": True, "interpolate_offset": 0.0}
    if key == "optim.scaling_rule":
        changes["optim"]["scaling_rule"] = "linear_wrt_256"
        with pytest.raises(ValueError, match=r"scaling_rule is 'linear_wrt_256'; known: \['sqrt_"):
            convert(yaml.safe_dump(changes).encode(), "s", 8)
        return
    before = {"ibot": {"separate_head": True}} if key.startswith("ibot.head_") else {}
    converted = [convert(yaml.safe_dump(tree).encode(), "s", 8)[0] for tree in (before, changes)]
    assert converted[0] != converted[1]


def test_all_unknown_keys_are_listed_with_what_was_meant():
    text = "optim: {base_rl: 0.1, epochs: 5}\nstudents: {arch: vit_small}\ntrain: 3"
    with pytest.raises(ValueError, match="does not match DINOv2's configs") as error:
        read_yaml(text.encode())
    assert str(error.value).splitlines()[1:] == [
        "  unknown key optim.base_rl; do you mean optim.base_lr?",
        "  unknown key students.arch; do you mean student.arch?",
        "  unknown key train; do you mean train.seed?",
    ]


def test_every_key_without_counterpart_is_noted_with_its_reason():
    tree = {}
    for key in WITHOUT_COUNTERPART:
        place = tree
        *parents, leaf = key.split(".")
        for name in parents:
            place = place.setdefault(name, {})
        place[leaf] = "x"
    source, notes = convert(yaml.safe_dump(tree).encode(), "s", 1)
    assert source == convert(b"", "s", 1)[0]
    assert sorted(notes) == sorted(
        f"{key} has no counterpart: {reason}" for key, reason in WITHOUT_COUNTERPART.items()
    )


def test_rates_of_drop_path_that_grow_are_noted():
    _, notes = convert(b"student: {drop_path_uniform: false}", "s", 1)
    assert "drop_path_uniform=false becomes ('per_sample', 'linear')" in notes[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim: {epochs: many}", "optim.epochs is 'many'; expected something like 100.0"),
        ("train: {seed: 1.5}", "train.seed is 1.5; expected something like 0"),
        (f"optim: {{base_lr: {'9' * 400}}}", "optim.base_lr is .*99.*; expected something"),
        ("ibot: {separate_head: 1}", "ibot.separate_head is 1; expected something like False"),
        ("crops: {local_crops_scale: [0.1]}", r"crops.local_crops_scale is \[0.1\]; expected"),
        ("optim: {clip_grad: true}", "optim.clip_grad is True; expected something like 3.0"),
        ("student: {arch: vit_huge}", "student.arch is 'vit_huge'; known: .*vit_giant2"),
        ("train: {centering: mean}", "train.centering is 'mean'; known: .*sinkhorn_knopp"),
        ("student: {interpolate_offset: 0.2}", r"interpolate_offset are \(False, 0.2\); known"),
        ("[1, 2]", r"sections such as 'student:' are expected, got '\[1, 2\]'"),
        ("a: [", r"not a YAML file: while parsing [^\n]*$"),
        ("a: b: c", r"not a YAML file: mapping values are not allowed [^\n]*$"),
    ],
)
def test_values_that_do_not_fit_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        convert(text.encode(), "s", 1)


def run_main(*arguments):
    assert config_from_yaml.main([*map(str, arguments)]) == 0


def test_the_command_prints_or_writes_the_same_file(tmp_path, capsys):
    path, out = tmp_path / "a.yaml", tmp_path / "a.py"
    path.write_text(SEPARATE_HEADS)
    run_main(path, "--gpus=4")
    printed = capsys.readouterr()
    assert "note: student.block_chunks has no counterpart" in printed.err
    run_main(path, "--gpus=4", f"--out={out}")
    assert out.read_text() == printed.out
    assert load(printed.out, tmp_path).batch_size == 128


def test_without_the_number_of_gpus_the_command_says_so(tmp_path, capsys):
    path = tmp_path / "a.yaml"
    path.write_text("")
    run_main(path)
    assert "the batch is that of 1 GPU; give the number" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gpus=0"], "--gpus: must be at least 1, got 0"),
        (["--out=taken.py"], "taken.py exists; give another --out"),
    ],
)
def test_wrong_use_ends_with_one_message(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("")
    (tmp_path / "taken.py").write_text("")
    with pytest.raises(SystemExit) as stop:
        run_main("a.yaml", *options)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_missing_file_is_named(capsys):
    with pytest.raises(SystemExit):
        run_main("nowhere.yaml")
    assert "nowhere.yaml" in capsys.readouterr().err


def test_groups_are_those_of_one_gpu_also_for_an_odd_number_of_local_crops():
    sections = translate(DEFAULTS | {"crops.local_crops_number": 5}, gpus=2)
    assert sections["network.backbone"]["drop_path_group"] == 64
    assert translate(DEFAULTS, gpus=2)["network.backbone"]["drop_path_group"] == 128


NAMES = [
    '"""+str(print("INJECTED"))+""".yaml',
    'quote at the end"',
    "\\N{no such name} \\u12 \\",
    "a\nb\x1b[31m\udcff\u202e.yaml",
    "'''.yaml",
]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_of_a_file_becomes_code(name, tmp_path, capsys):
    root = "train: {dataset_path: 'ImageNet:split=TRAIN:root=/d/\N{GRINNING FACE}'}"
    (tmp_path / name).write_text(root, "utf-8")
    out = tmp_path / "converted.py"
    assert config_from_yaml.main([str(tmp_path / name), f"--out={out}", "--gpus=1"]) == 0
    tree = ast.parse(out.read_text("utf-8"))
    kinds = [ast.Expr, ast.ImportFrom, ast.ImportFrom, ast.FunctionDef]
    assert [type(node) for node in tree.body] == kinds
    assert (ast.get_docstring(tree) or "").startswith(f"{printable(name)}, converted by")
    config = runpy.run_path(str(out))["get_config"]()
    assert config.data.path == "/d/\N{GRINNING FACE}/train"
    assert "INJECTED" not in capsys.readouterr().out


def test_a_yaml_file_is_small_and_shallow_and_has_no_aliases():
    bomb = "a: &a [1, 1]\n" + "".join(f"b{n}: &b{n} [*a, *a]\n" for n in range(9))
    for text, reason in [
        (bomb, "aliases"),
        ("[" * 1000, "deeper than 16"),
        ("- " * 1000, "deeper than 16"),
        ("#" * 100_000, "at most 65,536"),
        ("a: " + "1" * 5000, "digits"),
        ("a: 2001-99-99", "month"),
    ]:
        with pytest.raises(ValueError, match=reason):
            read_yaml(text.encode())
    with pytest.raises(ValueError, match="utf-8"):
        read_yaml(b"a: \xff")


def test_the_defaults_are_in_their_ranges():
    assert read_yaml(b"")[1] == DEFAULTS


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("train", "batch_size_per_gpu", "-8"),
        ("train", "batch_size_per_gpu", "0"),
        ("train", "OFFICIAL_EPOCH_LENGTH", "9" * 30),
        ("train", "seed", "-1"),
        ("optim", "base_lr", ".nan"),
        ("optim", "base_lr", ".inf"),
        ("optim", "base_lr", "-1.0"),
        ("optim", "epochs", "0"),
        ("optim", "epochs", "9" * 400),
        ("student", "patch_size", "0"),
        ("student", "drop_path_rate", "1.0"),
        ("teacher", "momentum_teacher", "1.5"),
        ("ibot", "mask_ratio_min_max", "[0.1, 2.0]"),
        ("crops", "local_crops_number", "-1"),
    ],
)
def test_numbers_out_of_range_are_named(section, key, value):
    with pytest.raises(ValueError, match=rf"{section}\.{key} (must be|is 9)"):
        read_yaml(f"{section}:\n  {key}: {value}\n".encode())
