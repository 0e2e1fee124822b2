"""Improving a model on photos: a better one is handed out, a destroyed one is not; restarts."""

import argparse
import json
import shutil
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

import dino_jax
from configs import quickstart
from dino_jax.__main__ import main
from dino_jax.data.sources import DigitsSource
from dino_jax.devices.sharding import make_mesh
from dino_jax.run.check import check_config
from dino_jax.run.whole_config import complete_config, read_config, read_plain, to_plain
from dino_jax.tuning.improving import command
from dino_jax.tuning.improving.__main__ import parse
from dino_jax.tuning.improving.compose import Plan, compose
from dino_jax.tuning.improving.outcome import judge, reason_against
from dino_jax.tuning.improving.photos import divide, list_photos, write_lists
from dino_jax.tuning.improving.record import IMPROVE_JSON
from dino_jax.tuning.improving.speed import steps_in
from dino_jax.tuning.improving.start import read_start
from dino_jax.workdir.checkpointing import read_network
from dino_jax.workdir.config_json import config_to_json
from dino_jax.workdir.paths import absolute_path
from tests.saved_model import save_model, save_tiny_vit

SHORT = ("--evaluations=3", "--batch-size=32", "--held-out=0.4")


def run(*arguments) -> int:
    """The exit code of a command."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as exit:
        return int(exit.code or 0)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with 300 digits in photos/CLASS, and a model that has learned nothing yet."""
    folder = tmp_path_factory.mktemp("improving")
    source = DigitsSource("train")
    for index in range(300):
        record = source[index]
        path = folder / f"photos/{record['label']}/{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(record["image"])).save(path)
    (folder / "model").mkdir()
    save_tiny_vit(folder / "model", width=24)
    config: Any = quickstart.get_config()
    config.network.backbone.update(embed_dim=24, depth=2)
    config.network.heads.dino.update(out_dim=16, hidden_dim=8, bottleneck_dim=8)
    whole = to_plain(read_config(complete_config(config)))
    (folder / "model/config.json").write_text(config_to_json(whole))
    return folder


def arguments(place, *options) -> argparse.Namespace:
    given = [place / "model", place / "photos", f"--out={place}/out", "--steps=9", *options]
    return parse([str(x) for x in given])


def improve(place, out, *options) -> int:
    return run("improve", place / "model", place / "photos", f"--out={out}", *options)


DESTRUCTIVE = ("--steps=12", "--lr=1", "--preserve=0", *SHORT)  # LoRA's rate times a thousand


@pytest.fixture(scope="module")
def destroyed(place, tmp_path_factory):
    """The outcome of a training that destroys its model, and a copy of its run as it was before."""
    out = tmp_path_factory.mktemp("destroyed") / "out"
    kept, remove = tmp_path_factory.mktemp("kept") / "run", command.remove_checkpoints

    def keep(folder):
        shutil.copytree(folder / "run", kept)
        remove(folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "remove_checkpoints", keep)
        code = improve(place, out, *DESTRUCTIVE)
    return code, out, kept


def test_a_destructive_rate_is_refused_and_nothing_is_handed_out(destroyed):
    code, out, _ = destroyed
    outcome = json.loads((out / IMPROVE_JSON).read_text())["outcome"]
    assert (code, outcome["handed_out"]) == (1, False)
    assert outcome["line"].startswith("not better: k-NN accuracy on held-out photos")
    assert min(look["gain"]["mean"] for look in outcome["looks"]) < 0
    assert not (out / "config.json").exists() and not (out / "checkpoints").exists()
    assert not (out / "run/checkpoints").exists()


def test_a_second_start_says_what_is_there_and_other_options_are_refused(place, destroyed, capsys):
    _, out, _ = destroyed
    files = sorted(out.rglob("*"))
    assert improve(place, out, *DESTRUCTIVE) == 1
    assert "ended before: not better: " in capsys.readouterr().out
    assert improve(place, out, *DESTRUCTIVE, "--seed=1") == 2
    assert "was begun with seed=0, not 1" in capsys.readouterr().err
    assert sorted(out.rglob("*")) == files


def test_a_better_model_is_handed_out_and_is_one_as_any_other(place, destroyed, tmp_path, capsys):
    """A start that was killed before it judged goes on: here its run is said to have gained."""
    _, before, kept = destroyed
    out = tmp_path / "out"
    shutil.copytree(before, out)
    shutil.rmtree(out / "run")
    shutil.copytree(kept, out / "run")
    told = json.loads((out / IMPROVE_JSON).read_text())
    (out / IMPROVE_JSON).write_text(json.dumps({**told, "outcome": None}))
    for name in ("train.txt", "held_out.txt"):  # the lists are those of the first start
        (out / "run/config.json").write_text(
            (out / "run/config.json").read_text().replace(f"{before}/{name}", f"{out}/{name}")
        )
    metrics = out / "run/metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    gained = {"gain/teacher": 0.25, "gain_low/teacher": 0.125, "found/teacher": 0.75}
    gained |= {"recognised_high/teacher": 0.1, "worth/teacher": 0.25}
    lines = [line | gained if line["step"] and "gain/teacher" in line else line for line in lines]
    metrics.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert improve(place, out, *DESTRUCTIVE) == 0
    assert "better: k-NN accuracy on held-out photos" in capsys.readouterr().out
    best = json.loads((out / IMPROVE_JSON).read_text())["outcome"]["best"]
    assert (best["step"], best["gain"]["low"]) == (12, 0.125)
    teacher, _ = read_network(kept, 12)
    handed = dino_jax.load(out)
    jax.tree.map(
        np.testing.assert_array_equal,
        handed.variables["params"]["backbone"],
        teacher["params"]["backbone"],
    )
    assert handed.image_size == 32 and not (out / "run/checkpoints").exists()
    exported = tmp_path / "improved.safetensors"
    assert run("export", out, f"--out={exported}", "--names=official") == 0
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["improved"]["best"] == best
    assert (
        "improved by dino-jax improve from teacher of step 0" in (out / "config.json").read_text()
    )


def test_the_config_is_complete_and_one_that_train_can_run(place, tmp_path):
    given = arguments(place, "--what=blocks", "--blocks=1", "--batch-size=32")
    photos, folder = list_photos(given), absolute_path(tmp_path)
    parts = write_lists(photos, given.held_out, 0, folder)
    start = read_start(given.model, None)
    config = compose(given, Plan(start, parts, folder, 50))
    assert read_plain(json.loads(config_to_json(to_plain(config)))) == (config, [])
    checked = check_config(config, parts.trained, make_mesh(1))
    assert (checked.recipe.total_steps, parts.by, parts.groups) == (50, "labels", 10)
    assert set(checked.recipe.objectives) == {"dino", "preserve"}
    assert config.optimizer.backbone_lr_multiplier == pytest.approx(0.1)


def test_a_file_of_weights_gets_fresh_heads_and_crops_of_its_size(place, tmp_path):
    file, model = tmp_path / "vit.safetensors", tmp_path / "model"
    model.mkdir()
    config: Any = quickstart.get_config()
    config.network.backbone.update(embed_dim=64, depth=1, num_heads=1)
    save_model(model, config)
    assert run("export", model, f"--out={file}", "--names=official") == 0
    given = arguments(place, "--batch-size=32")
    parts = write_lists(list_photos(given), given.held_out, 0, absolute_path(tmp_path))
    start = read_start(str(file), None)
    composed = compose(given, Plan(start, parts, absolute_path(tmp_path), 50))
    checked = check_config(composed, parts.trained, make_mesh(1))
    recipe = checked.recipe
    assert recipe.crop_sizes == {"global": (32, 32), "local": (16, 16)}
    assert recipe.roles["student"].network.heads["dino"].out_dim == 256
    frozen = checked.frozen.load(make_mesh(1), recipe.crop_shape)
    theirs = dino_jax.load(file).variables["params"]["backbone"]
    ours = frozen["start"]["params"]["backbone"]
    np.testing.assert_array_equal(ours["norm"]["scale"], theirs["norm"]["scale"])
    with pytest.raises(ValueError, match="--step=3 is for workdirs"):
        read_start(str(file), 3)


def test_photos_are_held_out_by_the_seed_and_products_as_wholes(place):
    photos = list_photos(arguments(place))
    trained, held_out = divide(photos, 0.2, 0)
    assert len(held_out) == 60 and len(trained) == 240
    assert not set(trained) & set(held_out)
    assert not np.array_equal(held_out, divide(photos, 0.2, 1)[1])
    names = [f"{index // 4}" for index in range(300)]
    products = photos._replace(by="pairs", groups=photos.groups._replace(
        of=np.repeat(np.arange(75), 4), names=sorted(set(names))))  # fmt: skip
    trained, held_out = divide(products, 0.2, 0)
    assert not {names[i] for i in trained} & {names[i] for i in held_out}
    assert len({names[i] for i in held_out}) == 15


@pytest.mark.parametrize(
    ("options", "by"),
    [((), "labels"), (("--without-labels",), "views"), (("--sku=label",), "pairs")],
)
def test_what_judges_follows_from_what_is_known(place, options, by):
    assert list_photos(arguments(place, *options)).by == by


def test_a_table_gives_labels(place, tmp_path):
    table = tmp_path / "table.csv"
    names = sorted(x.relative_to(place / "photos") for x in (place / "photos").rglob("*.png"))
    lines = [f"{name},{'odd' if int(name.stem) % 2 else 'even'}" for name in names[:200]]
    table.write_text("\n".join(["name,kind", *lines]) + "\n")
    photos = list_photos(arguments(place, f"--metadata={table}", "--label=kind"))
    assert (photos.by, photos.groups.names) == ("labels", ["even", "odd"])
    assert (photos.groups.of >= 0).sum() == 200
    assert set(divide(photos, 0.3, 0)[1]) <= set(np.flatnonzero(photos.groups.of >= 0))
    with pytest.raises(ValueError, match="has no column 'sort'"):
        list_photos(arguments(place, f"--metadata={table}", "--label=sort"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "--hours=N or --steps=N"),
        (("--steps=5", "--hours=1"), "--hours=N or --steps=N"),
        (("--steps=5", "--label=kind"), "--label is a column of --metadata"),
        (("--steps=5", "--sku=kind"), "--sku is a column of --metadata"),
        (("--steps=5", "--without-labels", "--sku=label"), "--without-labels takes no"),
        (("--steps=5", "--step=7"), r"no checkpoint 7; steps found: [0]"),
        (("--steps=5", "--metadata=t.csv"), "--metadata is for --label or --sku"),
    ],
)
def test_a_wrong_use_is_said_in_one_line_and_leaves_nothing(place, tmp_path, capsys, options, said):
    assert improve(place, tmp_path / "new", *options) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_left_alone(place, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert improve(place, tmp_path, "--steps=5") == 2
    assert "is not of dino-jax improve (['mine.txt'])" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_steps_follow_from_the_hours_and_the_speed():
    # 0.85 of an hour less 60 s, and 1000 photos looked at ten times as fast as 50 per second
    assert steps_in(1.0, 60.0, 50.0, 32, 10**6, 1000) == int((3060 - 60 - 2) * 50 / 32)
    assert steps_in(10.0, 0.0, 50.0, 32, 320, 0) == 1000  # a hundred passes
    with pytest.raises(ValueError, match=r"--hours=0\.001 are too few here: 4 steps of 32 photos"):
        steps_in(0.001, 0.0, 50.0, 32, 10**6, 0)


def write_looks(folder, *looks):
    """metrics.jsonl with (gain, its lower end, upper end of what is recognised) of each look."""
    (folder / "run").mkdir()
    lines = [
        {"step": step, "found/start": 0.5, "found/teacher": 0.5 + gain, "gain/teacher": gain}
        | {"gain_low/teacher": low, "gain_high/teacher": 2 * gain - low}
        | {"recognised_high/teacher": high, "worth/teacher": gain if high >= 0 else -1.0}
        for step, (gain, low, high) in enumerate(looks)
    ]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (folder / "run/metrics.jsonl").write_text(text)
    return judge(absolute_path(folder) / "run")


NOTHING = (0.0, 0.0, 0.0)  # of step 0


def test_the_best_look_that_destroys_nothing_is_chosen(tmp_path):
    judged = write_looks(tmp_path, NOTHING, (0.1, 0.02, 0.1), (0.4, 0.3, -0.1), (0.05, 0.0, 0.2))
    assert (judged.best.step, judged.is_better, len(judged.looks)) == (1, True, 3)


@pytest.mark.parametrize(
    ("looks", "why"),
    [
        (((0.1, -0.01, 0.1),), "that is not more than its uncertainty"),
        (((-0.1, -0.2, 0.1),), "no evaluation was better than the model itself"),
        (((0.4, 0.3, -0.1),), "a model that recognises photos less than before"),
        ((), "there was no time for an evaluation"),
    ],
)
def test_the_reason_against_a_model_is_one_sentence(tmp_path, looks, why):
    judged = write_looks(tmp_path, NOTHING, *looks)
    assert not judged.is_better and why in reason_against(judged)
