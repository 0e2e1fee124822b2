"""Probe images, neighbours and crops inside the page."""

import json
import re

import numpy as np
import pytest
from etils import epath
from PIL import Image

from dino_jax.report.history import Curve, Run
from dino_jax.report.pictures import open_picture, resize
from dino_jax.report.probes import (
    draw_crops,
    draw_neighbours,
    draw_probes,
    read_frames,
    thin_frames,
)

EVIL = '"><script>x</script>'


def save(path, height, width, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_probes(folder, steps, count=2, heads=3):
    for number in range(count):
        save(folder / f"probes/images/{number:02d}.png", 96, 96)
    for step in steps:
        here = folder / "probes" / str(step)
        for number in range(count):
            for kind, width in (("pca", 96), ("attention", 96), ("neighbours", 2 * 96 + 2)):
                save(here / f"{number:02d}_{kind}.png", 96, width)
            if heads:
                save(here / f"{number:02d}_heads.png", 64, heads * 66 - 2)
        neighbours = [{"name": EVIL, "label": EVIL, "cosine": 0.91234}] * 2
        probe = {"name": EVIL, "label": EVIL, "neighbours": neighbours}
        described = {"step": step, "heads": heads, "probes": [probe] * count}
        (here / "probes.json").write_text(json.dumps(described))
        if not heads:
            for path in here.glob("*_attention.png"):
                path.unlink()
    return folder


def make_run(folder, last_step=100):
    curves = {"loss": Curve(np.array([last_step]), np.array([1.0]))}
    return Run(folder.name, epath.Path(folder), curves, [], {}, [])


def test_the_slider_moves_one_film_per_picture(tmp_path):
    run = make_run(write_probes(tmp_path, [0, 50, 100]))
    html = draw_probes([run])
    assert 'style="--frames:3;--frame:2"' in html
    assert 'max="2"' in html and 'data-steps="0 50 100"' in html
    # Per probe an original and two films of three frames; then the heads of the newest step.
    sizes = re.findall(r'width="(\d+)" height="(\d+)"', html)
    assert sizes == [("112", "112"), ("112", "336"), ("112", "336")] * 2 + [("172", "56")] * 2
    assert "<script>" not in html


def test_a_network_without_attention_shows_the_rest(tmp_path):
    html = draw_probes([make_run(write_probes(tmp_path, [0, 50], heads=0))])
    assert html.count("<img") == 2 * 2
    assert "attention</figcaption>" not in html and "PCA</figcaption>" in html


def test_neighbours_are_shown_with_label_and_cosine(tmp_path):
    html = draw_neighbours([make_run(write_probes(tmp_path, [0, 50]))])
    assert html.count("<img") == 2 * 3
    assert html.count("0.912</figcaption>") == 2 * 2
    assert "<script>" not in html


def test_evaluations_that_are_torn_or_undone_are_left_out(tmp_path):
    write_probes(tmp_path, [0, 50, 100, 150])
    (tmp_path / "probes/50/probes.json").write_text('{"step": 5')
    (tmp_path / "probes/120").mkdir()
    run = make_run(tmp_path, last_step=130)
    assert [frame.step for frame in read_frames(run)] == [0, 100]


def test_a_damaged_picture_leaves_a_gap_and_no_error(tmp_path):
    run = make_run(write_probes(tmp_path, [0, 50]))
    (tmp_path / "probes/0/00_pca.png").write_bytes(b"\x89PNG\r\n\x1a\n123")
    assert draw_probes([run]).count("<img") == 2 * 3 - 1 + 2


def test_runs_without_pictures_have_no_sections(tmp_path):
    run = make_run(tmp_path)
    assert (draw_probes([run]), draw_neighbours([run]), draw_crops([run])) == (None, None, None)


def test_many_evaluations_are_thinned_evenly():
    assert thin_frames(range(5), 16) == [0, 1, 2, 3, 4]
    assert thin_frames(range(31), 16) == list(range(0, 31, 2))
    thinned = thin_frames(range(1000), 16)
    assert (len(thinned), thinned[0], thinned[-1]) == (16, 0, 999)


def test_equal_sheets_of_crops_are_shown_once(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        save(tmp_path / name / "crops.png", 60, 3000, seed)
    html = draw_crops([make_run(tmp_path / name) for name in "abc"])
    assert html.count("<img") == 2
    assert "a, b</h3>" in html and "c</h3>" in html
    assert 'width="1400" height="28"' in html


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\nIHDR"])
def test_what_is_no_picture_opens_as_none(tmp_path, content):
    path = epath.Path(tmp_path) / "x.png"
    assert open_picture(path) is None
    path.write_bytes(content)
    assert open_picture(path) is None


def test_enlarged_pictures_keep_their_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    large = np.asarray(resize(Image.fromarray(pixels), 12, 12))
    np.testing.assert_array_equal(large, pixels.repeat(3, 0).repeat(3, 1))
