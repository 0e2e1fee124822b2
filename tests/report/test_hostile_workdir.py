"""A workdir with anything in it gives a report of what can be read, or one line."""

import json
import os
import struct
import zlib

import pytest

from dino_jax.report.__main__ import main
from dino_jax.report.chart import WIDTH
from tests.report.test_report import write_run


def _report(folder):
    assert main([str(folder)]) == 0
    return (folder / "report.html").read_text("utf-8")


def _append(folder, **metrics):
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 30, **metrics}) + "\n")


def test_numbers_beyond_what_a_curve_can_show_are_not_finite(tmp_path):
    folder = write_run(tmp_path / "run")
    for step, (large, small) in enumerate([(1e308, 1e-308), (-1e308, 5e-324), (1e99, 1.0)], 31):
        _append(folder, step=step, loss=large, lr=small, flat=1e16 + 2 * step, grad_norm=small)
    _append(folder, step=34, loss=float("inf"), lr=float("nan"))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 35, "loss": 1e999}\n{"step": 36, "loss": ' + "9" * 10_000 + "}\n")
        file.write('{"step": 99999999999999999999, "loss": 1}\n{"step": 1e3, "loss": 1}\n')
    page = _report(folder)
    assert "not finite" in page
    assert "torn lines left out: 36, 37, 38" in page
    assert "nan" not in page.replace("nano", "").split("<main>")[1].split("</main>")[0]
    assert f'viewBox="0 0 {WIDTH}' in page


@pytest.mark.parametrize(
    "changes",
    [
        dict(network=[], data=3, epochs="x", batch_size="y", seed=None, roles=7, evaluated=[]),
        dict(network={"backbone": [], "heads": 5}, data=None, epochs=[], batch_size=-3),
        dict(
            network={
                "backbone": {"kind": "vit", "size": [1]},
                "heads": {"a": 1, "b": {"out_dim": []}},
            }
        ),
        dict(batch_size=1e300, epochs=1e300, network={"heads": {"a": {"out_dim": 2**62}}}),
        dict(format=0, crops=7, augment=[]),
        dict(format=[]),
        {f"key{number}": "long " * 1000 for number in range(2000)},
    ],
)
def test_a_config_may_hold_anything(changes, tmp_path):
    page = _report(write_run(tmp_path / "run", changes))
    assert "Loss" in page
    assert len(page) < 5e6


@pytest.mark.parametrize("name", ["config.json", "diagnosis.jsonl", "crops.png"])
def test_side_files_that_are_none_are_left_out(name, tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert "Loss" in _report(folder)
    for content in (b"[" * 200_000, b"\xff\xfe\0", b"null", b"[1, 2]", b"{}", b'{"step": 1}'):
        (folder / name).unlink()
        (folder / name).write_bytes(content)
        assert "Loss" in _report(folder)


def test_metrics_that_are_no_file_are_one_line(tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    os.mkfifo(folder / "metrics.jsonl")
    with pytest.raises(SystemExit, match="2"):
        main([str(folder)])
    assert capsys.readouterr().err.endswith("is a pipe, not a file\n")


def test_metrics_of_terabytes_are_not_read(tmp_path, capsys):
    folder = write_run(tmp_path / "run")
    os.truncate(folder / "metrics.jsonl", 1 << 40)  # sparse
    with pytest.raises(SystemExit, match="2"):
        main([str(folder)])
    assert capsys.readouterr().err.endswith("more than the 1,073,741,824 that are read\n")


def test_a_step_of_thousands_of_digits_is_a_torn_line(tmp_path):
    folder = write_run(tmp_path / "run")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": ' + "9" * 5000 + ', "loss": 1}\n')
    assert "torn lines left out: 31" in _report(folder)


def test_deep_lines_of_metrics_are_torn_lines(tmp_path):
    folder = write_run(tmp_path / "run")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 31, "loss": ' + "[" * 100_000 + "\n")
    assert "torn lines left out: 31" in _report(folder)


def _png(width, height):
    """A header alone, or with the rows of a black picture."""

    def chunk(kind, data):
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    rows = zlib.compress(bytes((1 + (width + 7) // 8) * height)) if width * height < 1e7 else b""
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(100_000_000, 1), (30_000, 30_000), (1, 20_000), (20_000, 1)])
def test_pictures_of_any_size_are_shown_small_or_left_out(size, tmp_path):
    folder = write_run(tmp_path / "run")
    for place in ("", "probes/images", "probes/2"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    for name in ("crops", "probes/images/00", "probes/2/00_heads", "probes/2/00_neighbours"):
        (folder / f"{name}.png").write_bytes(_png(*size))
    described = {"heads": 2, "probes": [{"name": "a", "neighbours": [{"cosine": "x"}] * 99}, 7]}
    (folder / "probes/2/probes.json").write_text(json.dumps(described))
    assert len(_report(folder)) < 2e6


def test_of_thousands_of_metrics_some_are_shown_and_a_note_says_so(tmp_path):
    folder = write_run(tmp_path / "run")
    _append(folder, **{f"metric/{number:04d}": 1.5 for number in range(3000)}, **{"x" * 300: 1.0})
    page = _report(folder)
    assert "500 of 3,006 metrics are shown" in page
    assert len(page) < 2e6


def test_of_a_long_diagnosis_the_end_is_shown(tmp_path):
    folder = write_run(tmp_path / "run")
    lines = [{"step": step, "state": f"state {step}", "title": "t" * 9000} for step in range(1000)]
    (folder / "diagnosis.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = _report(folder)
    assert "the last 200 of 1,000 are shown" in page
    assert len(page) < 3e6
