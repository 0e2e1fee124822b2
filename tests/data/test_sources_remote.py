"""Sources read from gs:// addresses, here served from memory by fsspec."""

import io
import pickle
import tarfile
from io import BytesIO

import numpy as np
import pytest
from etils import epath
from PIL import Image

from dino_jax.data.building import build
from dino_jax.data.sources import FolderSource, GlobSource, ListSource, ParquetSource, TarSource
from dino_jax.data.sources.storage import ByteRanges


def _png(level):
    buffer = BytesIO()
    Image.fromarray(np.full((6, 5, 3), level, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _records(source):
    copy = pickle.loads(pickle.dumps(source))
    return [(copy[i]["name"], copy[i]["image"], copy[i]["label"]) for i in range(len(copy))]


CATS_AND_DOGS = [("cat/1.png", _png(1), 0), ("dog/2.png", _png(2), 1)]


def _fill(cloud):
    for name, data, _ in CATS_AND_DOGS:
        cloud.pipe(f"gs://bucket/train/{name}", data)


def test_folders_and_patterns_of_a_bucket(cloud):
    _fill(cloud)
    assert epath.Path("gs://bucket/train/cat/1.png").read_bytes() == _png(1)
    assert _records(FolderSource("gs://bucket/train")) == CATS_AND_DOGS
    assert _records(GlobSource("gs://bucket/train/*/*.png")) == CATS_AND_DOGS
    assert GlobSource("gs://bucket/train/**").name(1) == "gs://bucket/train/dog/2.png"


def test_a_list_in_a_bucket_names_files_beside_it_or_by_address(cloud):
    _fill(cloud)
    cloud.pipe("gs://bucket/train/list.txt", b"cat/1.png\tcat\ngs://bucket/train/dog/2.png\tdog\n")
    source = ListSource("gs://bucket/train/list.txt")
    assert [record[1:] for record in _records(source)] == [r[1:] for r in CATS_AND_DOGS]


def test_tar_shards_of_a_bucket(cloud):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name, data in (("1.png", _png(1)), ("1.cls", b"1"), ("2.png", _png(2))):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))
    cloud.pipe("gs://bucket/shards/a-0.tar", buffer.getvalue())
    expected = [("1.png", _png(1), 1), ("2.png", _png(2), -1)]
    for path in ("gs://bucket/shards", "gs://bucket/shards/a-*.tar", "gs://bucket/shards/a-0.tar"):
        assert _records(TarSource(path)) == expected


def test_a_piece_of_an_object_that_was_cut_short_is_an_error_of_the_system(cloud):
    cloud.pipe("gs://bucket/a.tar", b"12345")
    ranges = ByteRanges()
    assert ranges.read("gs://bucket/a.tar", 1, 3) == b"234"
    assert ranges.read("gs://bucket/a.tar", 5, 0) == b""
    for offset, reason in [(3, "3 bytes too early"), (5, "HttpError: 416")]:
        with pytest.raises(OSError, match=reason):
            ranges.read("gs://bucket/a.tar", offset, 5)


def test_parquet_files_of_a_bucket(cloud):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": [_png(1), _png(2)], "label": [0, 1]}), buffer)
    cloud.pipe("gs://bucket/data/a.parquet", buffer.getvalue())
    assert _records(ParquetSource("gs://bucket/data", "", "label")) == [
        ("0", _png(1), 0),
        ("1", _png(2), 1),
    ]


def test_build_writes_the_same_files_to_a_bucket_as_to_a_disk(cloud, tmp_path):
    _fill(cloud)
    for out in ("gs://bucket/out", str(tmp_path / "out")):
        arguments = ["gs://bucket/train", f"--out={out}", "--workers=0", "--shards=2"]
        assert build.main(arguments) == 0
    local = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert len(local) == 5
    remote = {name.rpartition("/")[2]: cloud.cat(name) for name in cloud.find("gs://bucket/out")}
    assert remote == local
    assert build.main(["gs://bucket/train", "--out=gs://bucket/out/", "--shards=2"]) == 0


def test_a_scheme_that_nothing_serves_is_an_os_error():
    with pytest.raises(OSError, match="nothing://bucket"):
        TarSource("nothing://bucket/*.tar")
