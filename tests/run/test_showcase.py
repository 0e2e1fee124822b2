"""What a run shows of itself, and that it never stops because of that."""

import io
import json

import pytest
from etils import epath
from ml_collections import ConfigDict
from PIL import Image

from configs import quickstart
from dino_jax.run.screen import Progress
from dino_jax.run.showcase import Showcase


@pytest.fixture
def screen():
    return io.StringIO()


def open_showcase(folder, config, screen):
    progress = Progress(0, 10, images_per_step=1, stream=screen)
    return Showcase(epath.Path(folder), config, None, progress)


def test_the_crops_are_drawn_once(tmp_path, screen):
    open_showcase(tmp_path, quickstart.get_config(), screen)
    with Image.open(tmp_path / "crops.png") as sheet:
        assert sheet.format == "PNG"
    (tmp_path / "crops.png").write_bytes(b"kept")
    open_showcase(tmp_path, quickstart.get_config(), screen)
    assert (tmp_path / "crops.png").read_bytes() == b"kept"
    assert screen.getvalue() == ""


def test_an_error_of_the_report_is_one_line_and_nothing_more(tmp_path, screen):
    showcase = open_showcase(tmp_path, quickstart.get_config(), screen)
    with showcase:
        showcase.update_report()
    lines = screen.getvalue().splitlines()
    assert len(lines) == 2
    assert all(line.startswith("no report this time: FileNotFoundError: ") for line in lines)
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 2.0}))
    with pytest.raises(KeyboardInterrupt), showcase:
        raise KeyboardInterrupt
    assert (tmp_path / "report.html").exists()


def test_an_error_of_the_pictures_is_one_line_and_nothing_more(tmp_path, screen):
    config = ConfigDict(quickstart.get_config().to_dict())
    config.data.update(kind="folder", path=str(tmp_path / "gone"))
    open_showcase(tmp_path, config, screen)
    (line,) = screen.getvalue().splitlines()
    assert line.startswith("no pictures this time: ") and "gone" in line
