"""The commands of docs/catalogue.md about two networks, as they stand there."""

import re
import shlex
from pathlib import Path

import pytest

pytest.importorskip("tokenizers")

from dino_jax.__main__ import main
from tests.saved_model import save_tiny_vit
from tests.search.photos import save_photo, save_photos, save_table
from tests.weights.clip_files import write_folder

PAGE = Path(__file__).parents[2] / "docs" / "catalogue.md"


def commands() -> list[list[str]]:
    section = PAGE.read_text().split("\n## Two networks, and words\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    return [shlex.split(line) for line in block.splitlines()]


def test_every_command_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    save_tiny_vit(tmp_path / "runs" / "mine", width=24)
    write_folder(tmp_path / "clip", "clip")
    save_table(tmp_path / "table.csv", save_photos(tmp_path / "photos"))
    save_photo(tmp_path / "photo.jpg", 1, 7)
    said = []
    for program, *arguments in commands():
        assert program == "dino-jax" and main(arguments) == 0
        said.append(capsys.readouterr().out)
    assert len(said) == 6 and "license of the weights: mit" in said[0]
    assert "exact, proven" in said[2] and "the order counts" in said[2]
    assert "deviations above the mean" in said[4] and "<- best" in said[5]
