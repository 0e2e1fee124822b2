"""The build as a pipeline of Apache Beam, run by its DirectRunner."""

import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("apache_beam")

from dino_jax.data.building import beam_pipeline, build, build_beam
from dino_jax.data.building.build_plan import Options
from dino_jax.data.sources import ArrayRecordSource, FolderSource
from dino_jax.workdir.lock import take_lock


def _png(level):
    buffer = BytesIO()
    pixels = np.random.default_rng(level).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    """20 images of two classes: 2 can't be read, 3 are copies; one name is no UTF-8."""
    root = tmp_path / "in"
    for number in range(20):
        path = root / ("even" if number % 2 == 0 else "odd") / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_png(number % 17))
    (root / "odd/03.png").write_bytes(b"")
    (root / os.fsdecode(b"odd/\xff.png")).write_bytes(_png(1)[:40])
    return root


def _files(out):
    return {path.name: path.read_bytes() for path in Path(out).iterdir()}


@pytest.mark.parametrize("extra", [(), ("--drop-duplicates", "--compute-stats")])
def test_the_pipeline_makes_the_same_files_as_the_local_build(folder, tmp_path, monkeypatch, extra):
    monkeypatch.setattr(beam_pipeline, "PART_IMAGES", 3)
    options = [str(folder), "--shards=4", "--max-unreadable=0.1", *extra]
    assert build.main([*options, f"--out={tmp_path}/local", "--workers=0"]) == 0
    assert build_beam.main([*options, f"--out={tmp_path}/beam", "--runner=DirectRunner"]) == 0
    local, made = _files(tmp_path / "local"), _files(tmp_path / "beam")
    assert made.keys() == local.keys()
    for name in local:
        assert made[name] == local[name], name
    assert len(ArrayRecordSource(f"{tmp_path}/beam")) == (16 if extra else 19)


def test_an_empty_shard_is_written_too(folder, tmp_path):
    options = [str(folder), "--shards=30", "--max-unreadable=0.1"]
    assert build.main([*options, f"--out={tmp_path}/local", "--workers=0"]) == 0
    assert build_beam.main([*options, f"--out={tmp_path}/beam", "--runner=DirectRunner"]) == 0
    assert _files(tmp_path / "beam") == _files(tmp_path / "local")


def test_too_many_unreadable_images_stop_the_pipeline_before_it_writes(folder, tmp_path, capfd):
    with pytest.raises(SystemExit, match="2"):
        build_beam.main(
            [str(folder), f"--out={tmp_path}/out", "--shards=2", "--runner=DirectRunner"]
        )
    error = capfd.readouterr().err
    assert "2 of 21 images can't be read" in error
    assert "odd/03.png: the file is empty" in error
    assert not list((tmp_path / "out").glob("*.arrayrecord"))
    assert not (tmp_path / "out/dataset.json").exists()


def test_every_image_has_the_shard_of_the_local_build():
    for images, shards in ((1, 1), (7, 3), (20, 64), (1000, 7)):
        options = Options({}, shards, 1, False, False)
        beam_build = beam_pipeline.BeamBuild(options, "out", b"", images, (), 0.0)
        for shard, part in enumerate(build.cut(images, shards)):
            assert all(beam_build.shard_of(index) == shard for index in part)


def test_a_pipeline_needs_a_number_of_shards_and_its_own_folder(folder, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        build_beam.main([str(folder), f"--out={tmp_path}/out"])
    assert "needs --shards" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("")
    with pytest.raises(SystemExit, match="2"):
        build_beam.main([str(folder), f"--out={tmp_path}/full", "--shards=2"])
    assert "exists, but not as build output" in capsys.readouterr().err


def test_no_worker_loads_a_pickle_that_the_pipeline_has_not_written(folder, tmp_path):
    digest = beam_pipeline.write_source(FolderSource(folder), str(tmp_path))
    assert len(beam_pipeline.load_source(str(tmp_path), digest)) == 21
    evil = b"cos\nsystem\n(S'touch %s'\ntR." % os.fsencode(tmp_path / "ran")
    (tmp_path / beam_pipeline.SOURCE_FILE).write_bytes(evil)
    with pytest.raises(OSError, match="is not what this pipeline has written"):
        beam_pipeline.load_source(str(tmp_path), digest)
    assert not (tmp_path / "ran").exists()


def test_one_build_at_a_time_writes_into_a_folder(folder, tmp_path, capsys):
    out = tmp_path / "out"
    lock = take_lock(out, print, "--out")
    with pytest.raises(SystemExit, match="2"):
        build_beam.main([str(folder), f"--out={out}", "--shards=2", "--runner=DirectRunner"])
    assert f"out {out} is in use by process {os.getpid()}" in capsys.readouterr().err
    lock.release()
    assert not out.exists()
