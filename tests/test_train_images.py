"""A run on images of 12 bits and one channel, and what its model reads afterwards."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dino_jax
from tests.run_train import QUICKSTART, SMALL, overrides, run

ONE_CHANNEL = {
    "network.backbone.in_channels": 1,
    "network.mean": "(0.4,)",
    "network.std": "(0.2,)",
    "epochs": 1.0,
    "batch_size": 8,
    "data.kind": "folder",
}


def _arguments(workdir: Path, images: Path, **changes: object) -> list[str]:
    config = SMALL | ONE_CHANNEL | {"data.path": images} | changes
    return [QUICKSTART, f"--workdir={workdir}", *overrides(config)]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(8):
        small = rng.integers(0, 4096, (6, 5), np.uint16)
        Image.fromarray(np.kron(small, np.ones((8, 8), np.uint16))).save(folder / f"{number}.tif")
    return folder


def test_images_whose_channels_are_not_those_of_the_network_end_a_run_at_its_start(
    images, tmp_path
):
    code, _, err = run(*_arguments(tmp_path / "run", images))
    assert code == 2
    assert "config.data.channels (3)" in err
    assert "--config.data.channels=1" in err
    assert "Traceback" not in err


def test_images_of_more_bits_end_a_run_with_the_option_to_set(images, tmp_path):
    code, _, err = run(*_arguments(tmp_path / "run", images, **{"data.channels": 1}))
    assert code == 2  # before anything is trained or evaluated
    assert "config.data: none of 8 images, evenly spaced over 8, can be read" in err
    assert "uint16" in err
    assert "config.data.range" in err
    assert not (tmp_path / "run").exists()


def test_a_run_of_one_channel_and_twelve_bits_gives_a_model_that_reads_them(images, tmp_path):
    options = {"data.channels": 1, "data.range": "0,4095"}
    code, out, err = run(*_arguments(tmp_path / "run", images, **options))
    assert (code, err) == (0, "")
    assert "1 channels, range 0,4095, EXIF orientation ignored" in out
    model = dino_jax.load(tmp_path / "run")
    assert model.decoding.describe() == "1 channels, range 0,4095, EXIF orientation applied"
    found = model.preprocess([str(images / "3.tif"), str(images / "4.tif")], 40)
    assert found.shape == (2, 40, 40, 1)
    vectors = np.asarray(model(found)["cls"])
    assert not np.allclose(vectors[0], vectors[1])
    values = np.asarray(Image.open(io.BytesIO((images / "3.tif").read_bytes())))
    levels = np.rint(values * (255 / 4095)).astype(np.uint8)[:40, :40]
    assert abs(int(found[0].mean()) - int(levels.mean())) < 20
