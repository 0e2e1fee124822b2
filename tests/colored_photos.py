"""A small data set in the layout of ImageNet, and what evaluations of it write."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from dino_jax.evaluation.__main__ import main
from tests.run_train import Finished, run_processes

CLASSES = ("blue", "green", "red")


def write_photos(folder: Path) -> Path:
    """24 training and 12 test images: noise over a color per class."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 4)):
        for channel, name in enumerate(reversed(CLASSES)):
            (folder / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 200, (32, 32, 3))
                pixels[..., channel] += rng.integers(10, 50)
                image = Image.fromarray(pixels.astype(np.uint8))
                image.save(folder / part / name / f"{index}.png")
    return folder


def files_of(folder: Path, part: str) -> tuple[list[Path], np.ndarray]:
    """Its images, and their classes."""
    paths = sorted((folder / part).rglob("*.png"))
    return paths, np.array([CLASSES.index(path.parent.name) for path in paths])


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def evaluate_as_one_and_two(folder: Path, *command: str) -> list[Finished]:
    """Runs an evaluation here and as two processes of two devices.

    Results are in folder/one and folder/two.

    Returns:
      The two processes.
    """
    assert main([*command, f"--out={folder}/one"]) == 0
    finished = run_processes(
        *command, f"--out={folder}/two", processes=2, devices=2, module="dino_jax.evaluation"
    )
    assert [process.code for process in finished] == [0, 0], finished
    return finished
