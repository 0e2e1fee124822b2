"""`dino-jax train PHOTOS`: what it chooses, and what it leaves to others."""

import numpy as np
import pytest
from PIL import Image

from dino_jax.commands.command_line import UsageError
from dino_jax.data.sources import FolderSource
from dino_jax.run.photos import complete_arguments, median_side
from dino_jax.train import parse
from dino_jax.workdir.config_json import open_workdir


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "chairs"
    folder.mkdir()
    for index in range(70):
        side = 30 if index < 50 else 300
        Image.new("RGB", (side + 10, side), (index, 0, 0)).save(folder / f"{index:02}.png")
    return folder


def test_sizes_fit_the_photos_and_are_printed_with_reasons(photos, capsys):
    given = parse([str(photos)])
    config = given.config
    assert (config.data.kind, config.data.path) == ("folder", str(photos))
    assert given.options.workdir == "runs/chairs"
    assert config.augment.crops["global_1"].size == (32, 32) and config.image_size == 32
    printed = capsys.readouterr().out
    assert f"config      small_data, for {photos}, in runs/chairs" in printed
    assert "chosen      batch_size=64: " in printed and "--config.NAME=VALUE changes any" in printed


def test_given_options_win(photos):
    config = parse([str(photos), "--config.batch_size=32", "--config.epochs", "1.0"]).config
    assert (config.batch_size, config.epochs) == (32, 1.0)


def test_a_run_that_has_begun_keeps_its_sizes(photos, tmp_path):
    workdir = tmp_path / "run"
    first = {
        "batch_size": 48,
        "image_size": 64,
        "augment": {"crops": {"local": {"size": [16, 16]}}},
    }
    open_workdir(workdir, first)
    found = complete_arguments(str(photos), [f"--workdir={workdir}"])
    assert "--config.batch_size=48" in found and "--config.image_size=64" in found
    assert "--config.augment.crops.local.size=(16, 16)" in found
    assert not any("embed_dim" in argument for argument in found)


@pytest.mark.parametrize("config", [["--config=quickstart"], ["--config", "quickstart"]])
def test_with_a_config_the_photos_are_only_its_images(photos, config):
    found = complete_arguments(str(photos), [*config, "--workdir=w"])
    assert found == [
        "--config.data.kind=folder",
        f"--config.data.path={photos}",
        *config,
        "--workdir=w",
    ]


def test_the_header_of_a_picture_says_its_side_and_damaged_ones_are_counted(photos):
    np.save(photos / "90.npy", np.zeros((8, 500, 3), np.uint8))
    (photos / "91.png").write_bytes(b"no picture")
    assert median_side(FolderSource(photos)) == (30.0, 1)
    (photos.parent / "bad").mkdir()
    (photos.parent / "bad" / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"none of 1 images .* the last reason: .*a\.png"):
        median_side(FolderSource(photos.parent / "bad"))


@pytest.mark.parametrize(
    ("folder", "rest", "words"),
    [
        ("quickstart", [], "quickstart is a config: give it as --config=quickstart"),
        ("/nowhere", [], "image folder '/nowhere' does not exist"),
        ("{photos}", ["--distributed"], "sizes are chosen for one process"),
        ("{few}", [], "3 images are fewer than a batch of 64"),
    ],
)
def test_what_cannot_be_trained_is_said(photos, folder, rest, words):
    few = photos.parent / "few"
    few.mkdir()
    for index in range(3):
        Image.new("RGB", (30, 30)).save(few / f"{index}.png")
    with pytest.raises(UsageError, match=words):
        complete_arguments(folder.format(photos=photos, few=few), rest)
