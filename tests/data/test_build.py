"""dino-jax build: any source to ArrayRecord shards."""

import contextlib
import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dino_jax.data.building import build as build_module
from dino_jax.data.building import build_workers
from dino_jax.data.building.build import main
from dino_jax.data.sources import ArrayRecordSource, DigitsSource, FolderSource, shard_writer
from dino_jax.workdir.lock import take_lock


def _png(level, side=8):
    buffer = BytesIO()
    Image.fromarray(np.full((side, side, 3), level, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _folder(root, count=10):
    for level in range(count):
        path = root / ("even" if level % 2 == 0 else "odd") / f"{level}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_png(level))
    return root


def _records(source):
    return [source[index] for index in range(len(source))]


def _run(source, out, *options):
    return main([str(source), f"--out={out}", "--workers=0", *options])


def _files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_a_built_folder_holds_the_same_records_in_the_same_order(tmp_path, capsys):
    root, out = _folder(tmp_path / "in"), tmp_path / "out"
    assert _run(root, out, "--shards=3") == 0
    built, source = ArrayRecordSource(str(out)), FolderSource(root)
    assert _records(built) == _records(source)
    assert built.class_names == source.class_names == ("even", "odd")
    assert sorted(_files(out)) == [
        "build.json",
        "dataset.json",
        *(f"images-0000{shard}-of-00003.arrayrecord" for shard in range(3)),
        "report.txt",
    ]
    assert f"--config.data.path={out}" in capsys.readouterr().out


def test_the_number_of_workers_changes_no_byte(tmp_path):
    root = _folder(tmp_path / "in", 40)
    _run(root, tmp_path / "a", "--shards=4", "--compute-stats")
    arguments = [str(root), f"--out={tmp_path}/b", "--shards=4", "--compute-stats", "--workers=2"]
    assert main(arguments) == 0
    assert _files(tmp_path / "a") == _files(tmp_path / "b")


def test_arrays_become_png_files(tmp_path):
    assert main(["--kind=digits", "--split=test", f"--out={tmp_path}/out", "--workers=0"]) == 0
    built, digits = ArrayRecordSource(f"{tmp_path}/out"), DigitsSource("test")
    assert built.class_names == digits.class_names
    for index in (0, 100, 358):
        assert built[index]["label"] == digits[index]["label"]
        pixels = np.array(Image.open(BytesIO(built[index]["image"])))
        np.testing.assert_array_equal(pixels, digits[index]["image"])


def test_a_built_set_can_be_built_again(tmp_path):
    _run(_folder(tmp_path / "in"), tmp_path / "a", "--shards=3")
    assert _run(tmp_path / "a", tmp_path / "b", "--kind=arrayrecord", "--shards=1") == 0
    first, second = (ArrayRecordSource(str(tmp_path / name)) for name in "ab")
    assert _records(first) == _records(second)


def test_a_config_file_names_the_source(tmp_path):
    root = _folder(tmp_path / "in", 4)
    (tmp_path / "mine.py").write_text(
        textwrap.dedent(f"""
            from ml_collections import ConfigDict

            def get_config():
                one = dict(kind="folder", path={str(root)!r}, weight=1.0)
                two = dict(kind="folder", path={str(root / "odd")!r}, weight=1.0)
                sources = dict(one=one, two=two)
                return ConfigDict(dict(data=dict(kind="mixture", sources=sources)))
            """)
    )
    assert _run(tmp_path / "mine.py", tmp_path / "out") == 0
    names = [record["name"] for record in _records(ArrayRecordSource(str(tmp_path / "out")))]
    assert names == [f"one/{name}" for name in ("even/0.png", "even/2.png", "odd/1.png")] + [
        "one/odd/3.png",
        "two/1.png",
        "two/3.png",
        "two/1.png",
        "two/3.png",
    ]


def test_unreadable_images_are_left_out_and_named_with_the_reason(tmp_path):
    root, out = _folder(tmp_path / "in"), tmp_path / "out"
    (root / "odd/3.png").write_bytes(b"")
    (root / "odd/5.png").write_bytes(_png(5, side=100))
    assert _run(root, out, "--max-unreadable=0.2", "--max-pixels=9999") == 0
    report = (out / "report.txt").read_text()
    assert "unreadable  2 left out" in report
    assert f"{root}/odd/3.png\tthe file is empty (0 bytes)" in report
    assert f"{root}/odd/5.png\t100 x 100 pixels" in report
    names = [record["name"] for record in _records(ArrayRecordSource(str(out)))]
    assert names == [f"even/{n}.png" for n in (0, 2, 4, 6, 8)] + [f"odd/{n}.png" for n in (1, 7, 9)]


def test_too_many_unreadable_images_stop_the_build_before_anything_is_written(tmp_path, capsys):
    root, out = _folder(tmp_path / "in"), tmp_path / "out"
    (root / "odd/3.png").write_bytes(b"nothing")
    with pytest.raises(SystemExit, match="2"):
        _run(root, out)
    error = capsys.readouterr().err
    assert "1 of 10 images can't be read" in error
    assert "odd/3.png" in error
    assert not list(out.glob("*.arrayrecord"))
    assert _run(root, out, "--max-unreadable=0.1") == 0


def test_copies_are_named_and_only_dropped_on_request(tmp_path):
    root = _folder(tmp_path / "in", 6)
    (root / "odd/again.png").write_bytes(_png(2))
    assert _run(root, tmp_path / "kept") == 0
    assert _run(root, tmp_path / "dropped", "--drop-duplicates") == 0
    line = f"{root}/odd/again.png\t{root}/even/2.png"
    assert line in (tmp_path / "kept/report.txt").read_text()
    assert line in (tmp_path / "dropped/report.txt").read_text()
    assert "duplicates  1 kept" in (tmp_path / "kept/report.txt").read_text()
    assert len(ArrayRecordSource(str(tmp_path / "kept"))) == 7
    dropped = _records(ArrayRecordSource(str(tmp_path / "dropped")))
    assert [record["image"] for record in dropped].count(_png(2)) == 1
    assert len(dropped) == 6


def test_mean_and_std_are_those_of_the_written_images(tmp_path):
    root = _folder(tmp_path / "in", 2)
    (root / "odd/1.png").write_bytes(_png(255))
    for number in range(3):
        (root / f"odd/copy{number}.png").write_bytes(_png(255))
    assert _run(root, tmp_path / "out", "--compute-stats", "--drop-duplicates") == 0
    description = json.loads((tmp_path / "out/dataset.json").read_text())
    assert description["mean"] == [0.5, 0.5, 0.5]
    assert description["std"] == [0.5, 0.5, 0.5]
    assert _run(root, tmp_path / "plain") == 0
    assert json.loads((tmp_path / "plain/dataset.json").read_text())["mean"] is None


def test_a_stopped_build_goes_on_without_touching_what_is_finished(tmp_path, monkeypatch):
    root, out = _folder(tmp_path / "in"), tmp_path / "out"
    write = build_module.write_shard
    written = []

    def stop_at_the_third(source, indices, digests, target, on_image):
        if len(written) == 2:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        written.append(target.rpartition("/")[2])
        write(source, indices, digests, target, on_image)

    monkeypatch.setattr(build_module, "write_shard", stop_at_the_third)
    assert _run(root, out, "--shards=4") == 130
    assert sorted(path.name for path in out.glob("*.arrayrecord")) == written
    with pytest.raises(FileNotFoundError, match="run the same build again"):
        ArrayRecordSource(str(out))
    before = {name: (out / name).stat().st_mtime_ns for name in written}
    monkeypatch.setattr(build_module, "write_shard", write)
    monkeypatch.setattr(build_module, "scan_part", None)  # all scans are finished
    assert _run(root, out, "--shards=4") == 0
    assert {name: (out / name).stat().st_mtime_ns for name in written} == before
    assert _records(ArrayRecordSource(str(out))) == _records(FolderSource(root))


def test_a_complete_build_is_not_done_again(tmp_path, capsys):
    root, out = _folder(tmp_path / "in"), tmp_path / "out"
    _run(root, out)
    before = _files(out)
    assert _run(root, out) == 0
    assert "already complete" in capsys.readouterr().out
    assert _files(out) == before


def test_other_options_on_the_same_folder_are_refused_with_the_difference(tmp_path, capsys):
    root, out = _folder(tmp_path / "in"), tmp_path / "out"
    _run(root, out)
    with pytest.raises(SystemExit, match="2"):
        _run(root, out, "--drop-duplicates", "--max-pixels=5000")
    error = capsys.readouterr().err
    assert f"drop_duplicates: {out} has False, this command has True" in error
    assert "max_pixels" in error
    (root / "odd/new.png").write_bytes(_png(77))
    with pytest.raises(SystemExit, match="2"):
        _run(root, out)
    assert "images: " in capsys.readouterr().err


def test_a_folder_with_something_else_is_refused(tmp_path, capsys):
    root = _folder(tmp_path / "in")
    with pytest.raises(SystemExit, match="2"):
        _run(root, root)
    assert "exists, but not as build output" in capsys.readouterr().err


def test_an_image_that_changes_after_the_scan_stops_the_build(tmp_path, monkeypatch, capsys):
    root = _folder(tmp_path / "in")
    select = build_module.select_images

    def change_one(*arguments):
        (root / "odd/3.png").write_bytes(_png(99))
        return select(*arguments)

    monkeypatch.setattr(build_module, "select_images", change_one)
    with pytest.raises(SystemExit, match="2"):
        _run(root, tmp_path / "out", "--shards=1")
    assert "odd/3.png has changed" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.arrayrecord*"))
    assert not list((tmp_path / "out").glob(".*part"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_ends_workers_and_leaves_no_half_file(tmp_path, number, code):
    root = _folder(tmp_path / "in", 20)
    program = f"""
        import sys, time
        from dino_jax.data.building import build
        from tests.data.test_build import slow_scan
        if __name__ == "__main__":
            build.scan_part = slow_scan
            sys.exit(build.main([{str(root)!r}, "--out={tmp_path}/out", "--workers=2"]))
    """
    (tmp_path / "program.py").write_text(textwrap.dedent(program))
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py")],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        start_new_session=True,
    )
    while not list((tmp_path / "out/.scan").glob("*.npz")):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, number)
    assert process.wait(60) == code
    _wait_for_the_end_of_group(process.pid)
    assert not list((tmp_path / "out/.scan").glob(".*part"))
    assert _run(root, tmp_path / "out") == 0


def _wait_for_the_end_of_group(group):
    """Python's own resource tracker ends a moment after its parent."""
    for _ in range(600):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("worker processes are still running")


def slow_scan(source, on_image, **options):
    """As scan_part, but slow enough to be interrupted."""
    time.sleep(0.3)
    build_module.scan_part(source, on_image, **options)


def die(source, on_image):
    os._exit(1)


def test_a_worker_that_dies_is_a_clear_error(tmp_path):
    source = FolderSource(_folder(tmp_path / "in"))
    with pytest.raises(OSError, match="worker process has died"):
        build_workers.run_tasks(source, [die], "scan", 10, workers=1)


def fail_at(source, on_image, index):
    raise OSError(f"no space at {index}")


def test_an_error_in_a_worker_reaches_the_caller(tmp_path):
    source = FolderSource(_folder(tmp_path / "in"))
    with pytest.raises(OSError, match="no space at 3"):
        build_workers.run_tasks(source, [functools.partial(fail_at, index=3)], "scan", 10, 1)


def test_a_full_disk_is_an_os_error_that_names_the_shard(tmp_path, monkeypatch):
    source = FolderSource(_folder(tmp_path / "in", 2))
    digests = np.stack(
        [np.frombuffer(hashlib.sha256(_png(level)).digest(), np.uint8) for level in range(2)]
    )
    full = contextlib.nullcontext("/dev/full")
    monkeypatch.setattr(shard_writer, "written_whole", lambda target: full)
    with pytest.raises(OSError, match=r"out/x can't be written: .*No space left"):
        shard_writer.write_shard(source, [0, 1], digests, "out/x", lambda: None)


def test_wrong_numbers_and_missing_sources_are_one_line(tmp_path, capsys):
    for options in (["--max-pixels=0"], ["--shards=-1"], []):
        with pytest.raises(SystemExit, match="2"):
            _run(tmp_path / "none", tmp_path / "out", *options)
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1


def test_a_folder_that_another_build_works_on_is_left_alone(tmp_path, capsys):
    """The lock alone does not make it somebody else's folder."""
    source = _folder(tmp_path / "in", 2)
    lock = take_lock(tmp_path / "out", print)
    with pytest.raises(SystemExit, match="2"):
        _run(source, tmp_path / "out")
    error = capsys.readouterr().err
    assert error.startswith(f"error: out {tmp_path}/out is in use by process ")
    assert error.endswith("use another --out\n")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["lock.json"]
    lock.release()
    assert _run(source, tmp_path / "out") == 0
    assert not (tmp_path / "out/lock.json").exists()


def photo(height, width, orientation=1, form="JPEG"):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(buffer, form, exif=exif, quality=90)
    return buffer.getvalue()


def test_arrays_are_made_smaller_and_become_png(tmp_path):
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "a.npy", np.full((30, 90, 3), 7, np.uint8))
    assert _run(tmp_path / "in", tmp_path / "out", "--max-side=30") == 0
    (record,) = _records(ArrayRecordSource(str(tmp_path / "out")))
    with Image.open(BytesIO(record["image"])) as image:
        assert (image.format, image.size, image.getpixel((3, 3))) == ("PNG", (30, 10), (7, 7, 7))


def test_photographs_are_made_smaller_on_request_and_keep_their_orientation(tmp_path):
    (tmp_path / "in").mkdir()
    files = {
        "large.jpg": photo(120, 320, orientation=6),
        "small.jpg": photo(40, 64),
        "large.png": photo(160, 80, orientation=3, form="PNG"),
    }
    for name, data in files.items():
        (tmp_path / "in" / name).write_bytes(data)
    for workers in ("0", "2"):
        out = tmp_path / workers
        assert (
            main([str(tmp_path / "in"), f"--out={out}", "--max-side=64", f"--workers={workers}"])
            == 0
        )
    assert _files(tmp_path / "0") == _files(tmp_path / "2")
    built = {
        record["name"]: record["image"]
        for record in _records(ArrayRecordSource(str(tmp_path / "0")))
    }
    assert built["small.jpg"] == files["small.jpg"]
    for name, size, orientation in (("large.jpg", (64, 24), 6), ("large.png", (32, 64), 3)):
        with Image.open(BytesIO(built[name])) as now, Image.open(BytesIO(files[name])) as was:
            assert (now.format, now.size) == (was.format, size)
            assert now.getexif()[0x0112] == orientation
            expected = was.convert("RGB").resize(size, Image.Resampling.LANCZOS)
            difference = np.abs(np.int16(np.asarray(now.convert("RGB"))) - np.int16(expected))
        assert difference.mean() < (2 if name.endswith("jpg") else 1e-9)


@pytest.mark.parametrize("other", ["--range=full", "--channels=1", "--measure-range"])
def test_only_photographs_are_made_smaller(tmp_path, capsys, other):
    _folder(tmp_path / "in")
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path / "in"), f"--out={tmp_path / 'out'}", "--max-side=64", other])
    assert "--max-side is for photographs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
