"""dino-jax show: the crops of a config as one picture."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import quickstart, vits16_vanilla
from dino_jax.data import contact_sheet, preview
from dino_jax.data.augment import CropParameters
from dino_jax.data.contact_sheet import Row, View, draw_sheet
from dino_jax.data.multi_crop import allocate, build_multi_crop

REPOSITORY = Path(__file__).parents[2]


def _run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "dino_jax", "show", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )


def test_the_command_writes_a_png_of_any_config(tmp_path):
    out = tmp_path / "sheet.png"
    result = _run("--config=configs/quickstart.py", f"--out={out}", "--images=2")
    assert result.returncode == 0, result.stderr
    with Image.open(out) as sheet:
        assert sheet.format == "PNG"
        assert f"{sheet.width} x {sheet.height} pixels" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/quickstart.py"], "missing --out"),
        (["--config=configs/quickstart.py", "--out=x", "--config.data.knd=x"], "has no"),
        (["--config=configs/quickstart.py", "--out=x", "--config.data.kind=tape"], "'tape'; known"),
    ],
)
def test_wrong_usage_is_one_line(arguments, message):
    result = _run(*arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_views_are_the_crops_of_the_sampler_with_their_parameters():
    config = vits16_vanilla.get_config()
    multi_crop = build_multi_crop(config.augment)
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    views = preview.draw_views(image, multi_crop, np.random.default_rng(5))
    batch = allocate(multi_crop, 1)
    multi_crop.fill(batch, 0, image, np.random.default_rng(5))
    assert [view.group for view in views] == ["global"] * 2 + ["local"] * 8
    expected = [*batch["global_crops"][0], *batch["local_crops"][0]]
    for view, crop in zip(views, expected, strict=True):
        np.testing.assert_array_equal(view.pixels, crop)


def _parameters(box):
    return CropParameters(box, False, (), False, None, False)


def test_the_sheet_shows_every_crop_pixel_for_pixel_in_the_frame_of_its_box():
    image = np.zeros((448, 448, 3), np.uint8)
    crops = [np.full((size, size, 3), level, np.uint8) for size, level in ((224, 90), (96, 160))]
    boxes = [(100, 100, 400, 400), (20, 300, 120, 440)]
    views = [
        View(group, _parameters(box), crop)
        for group, box, crop in zip(("global", "local"), boxes, crops, strict=True)
    ]
    sheet = np.array(draw_sheet([Row(image, "name", views)], "title", "subtitle"))
    for view, color in zip(views, contact_sheet._colors(views), strict=True):
        level = view.pixels[0, 0, 0]
        rows, columns = np.nonzero((sheet == level).all(-1))
        assert len(rows) == view.pixels.shape[0] * view.pixels.shape[1]
        np.testing.assert_array_equal(sheet[rows.min() - 1, columns.min()], color)
    # The original is drawn at half its size: so are the boxes.
    origin = np.array((contact_sheet.MARGIN + 3 * contact_sheet.CAPTION + 3, contact_sheet.MARGIN))
    for box, color in zip(boxes, contact_sheet._colors(views), strict=True):
        left, top, right, bottom = (edge // 2 for edge in box)
        middle = ((top + bottom) // 2, (left + right) // 2)
        for place in (
            (top, right - 5),
            (bottom - 1, middle[1]),
            (middle[0], left),
            (middle[0], right - 1),
        ):
            np.testing.assert_array_equal(sheet[tuple(origin + place)], color)


def test_small_crops_are_enlarged_without_blur():
    config = quickstart.get_config()
    sheet = np.array(preview.draw_preview(config, "title", 1, print))
    row = contact_sheet.MARGIN + 3 * contact_sheet.CAPTION + contact_sheet.FRAME
    first_crop_left = contact_sheet.MARGIN + 192 + 3 * contact_sheet.GAP + contact_sheet.FRAME
    crop = sheet[row : row + 192, first_crop_left : first_crop_left + 192]
    np.testing.assert_array_equal(crop, crop[::6, ::6].repeat(6, 0).repeat(6, 1))
    assert len(np.unique(crop)) > 20


def test_the_sheet_depends_on_the_seed_only():
    config = quickstart.get_config()
    first, again = (np.array(preview.draw_preview(config, "title", 2, print)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    config.seed = 1
    assert (np.array(preview.draw_preview(config, "title", 2, print)) != first).any()


def test_unreadable_images_are_named_and_left_out(tmp_path, capsys):
    Image.fromarray(np.full((50, 40, 3), 7, np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    config = vits16_vanilla.get_config()
    config.data.update(kind="folder", path=str(tmp_path))
    one_row = preview.draw_preview(config, "title", 1, print).height
    assert preview.draw_preview(config, "title", 8, print).height == one_row
    assert "b.png: the file is empty" in capsys.readouterr().out
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match="none of the chosen images"):
        preview.draw_preview(config, "title", 8, print)
