"""Tar, Parquet and ArrayRecord shards as sources."""

import io
import json
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from ml_collections import ConfigDict
from PIL import Image

from configs import quickstart
from dino_jax.data.multi_crop import build_multi_crop
from dino_jax.data.pipeline import build_train_stream
from dino_jax.data.sources import ArrayRecordSource, ParquetSource, TarSource, build_source
from dino_jax.data.sources import parquet as parquet_module
from dino_jax.data.sources.contents import contents_of
from dino_jax.data.sources.record_format import (
    WRITE_OPTIONS,
    Description,
    decode_record,
    encode_record,
    shard_name,
    write_description,
)
from tests.fuzz import samples

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def _png(level):
    buffer = BytesIO()
    Image.fromarray(np.full((6, 5, 3), level, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _records(source):
    return [source[index] for index in range(len(source))]


def _write_tar(path, *members, format=tarfile.PAX_FORMAT):
    with tarfile.open(path, "w", format=format) as file:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))
    return str(path)


def _read_from_threads_and_a_copy(source):
    copy = pickle.loads(pickle.dumps(source))
    expected = _records(source)
    indices = list(range(len(source))) * 20
    with ThreadPoolExecutor(8) as pool:
        for index, record in zip(indices, pool.map(copy.__getitem__, indices), strict=True):
            assert record == expected[index]


def test_tar_samples_are_images_with_the_label_of_their_members(tmp_path):
    _write_tar(tmp_path / "a-0.tar", ("a/1.jpg", _png(1)), ("a/1.cls", b"2"), ("a/2.png", _png(2)))
    _write_tar(
        tmp_path / "a-1.tar",
        ("3.json", json.dumps({"label": 0, "caption": "x"}).encode()),
        ("3.webp", _png(3)),
        ("4.txt", b"no image"),
    )
    source = TarSource(str(tmp_path))
    assert [record["image"] for record in _records(source)] == [_png(1), _png(2), _png(3)]
    assert [record["label"] for record in _records(source)] == [2, -1, 0]
    assert [record["name"] for record in _records(source)] == ["a/1.jpg", "a/2.png", "3.webp"]
    assert source.class_names == ("0", "1", "2")
    assert source.name(2) == f"{tmp_path}/a-1.tar:3.webp"
    _read_from_threads_and_a_copy(source)


def test_tar_shards_are_a_file_a_folder_or_a_pattern(tmp_path):
    for name in ("train-0.tar", "train-1.tar", "val-0.tar"):
        _write_tar(tmp_path / name, (f"{name}.jpg", _png(0)))
    assert len(TarSource(str(tmp_path))) == 3
    assert len(TarSource(f"{tmp_path}/train-*.tar")) == 2
    assert len(build_source(ConfigDict({"kind": "tar", "path": f"{tmp_path}/val-0.tar"}))) == 1
    for path in (f"{tmp_path}/test-*.tar", f"{tmp_path}/none.tar", f"{tmp_path}/none"):
        with pytest.raises(FileNotFoundError, match="no shards"):
            TarSource(path)


def test_a_folder_with_brackets_in_its_name_is_no_pattern(tmp_path):
    (tmp_path / "set [1]").mkdir()
    _write_tar(tmp_path / "set [1]/a.tar", ("1.png", _png(0)))
    assert len(TarSource(f"{tmp_path}/set [1]/")) == 1


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_headers_of_all_formats_are_read_as_tarfile_reads_them(tmp_path, format):
    names = ["x" * 60 + "/" + "y" * 60 + "/1.png", "ünï/2.png"]
    if format != tarfile.USTAR_FORMAT:
        names.append("z" * 300 + "/猫.png")
    members = [(name, _png(level)) for level, name in enumerate(names)]
    with tarfile.open(tmp_path / "x.tar", "w", format=format) as file:
        for folder in ("d", "e" * 120):
            entry = tarfile.TarInfo(folder if format != tarfile.USTAR_FORMAT else "d")
            entry.type = tarfile.DIRTYPE
            file.addfile(entry)
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))
    source = TarSource(f"{tmp_path}/x.tar")
    assert [(record["name"], record["image"]) for record in _records(source)] == members


def test_the_image_of_a_tar_sample_is_the_one_without_a_second_dot(tmp_path):
    _write_tar(tmp_path / "x.tar", ("1.seg.png", _png(1)), ("1.jpg", _png(2)))
    assert _records(TarSource(str(tmp_path)))[0]["image"] == _png(2)
    _write_tar(tmp_path / "x.tar", ("1.png", _png(1)), ("1.jpg", _png(2)))
    with pytest.raises(ValueError, match=r"several images: \['jpg', 'png'\]"):
        TarSource(str(tmp_path))


def test_damaged_tar_shards_are_refused_with_their_name(tmp_path):
    path = tmp_path / "x.tar"
    _write_tar(path, ("1.png", _png(1)), ("2.png", bytes(5000)))
    whole = path.read_bytes()
    path.write_bytes(whole[:3000])
    with pytest.raises(ValueError, match=r"x\.tar is cut off: .*2\.png"):
        TarSource(str(tmp_path))
    path.write_bytes(b"\x1f\x8b" + whole[2:])
    with pytest.raises(ValueError, match=r"x\.tar is compressed"):
        TarSource(str(tmp_path))
    path.write_bytes(b"not a tar file" * 100)
    with pytest.raises(ValueError, match=r"x\.tar is not a tar file, or damaged at byte 0"):
        TarSource(str(tmp_path))
    path.write_bytes(bytes(1024))
    with pytest.raises(ValueError, match="hold no images"):
        TarSource(str(tmp_path))


def test_a_tar_shard_that_shrinks_later_is_an_os_error(tmp_path):
    path = tmp_path / "x.tar"
    _write_tar(path, ("1.png", _png(1)))
    source = TarSource(str(path))
    path.write_bytes(path.read_bytes()[:520])
    with pytest.raises(OSError, match="too early"):
        source[0]


def _write_parquet(path, images, row_group_size=2, **columns):
    table = pa.table({"image": images, **columns})
    pq.write_table(table, path, row_group_size=row_group_size)


def test_parquet_images_are_hugging_face_structs_or_bytes(tmp_path):
    structs = [{"bytes": _png(level), "path": f"{level}.png"} for level in range(5)]
    _write_parquet(tmp_path / "a.parquet", structs, label=[1, 0, None, 2, 1])
    source = ParquetSource(str(tmp_path), "", "label")
    assert [record["image"] for record in _records(source)] == [_png(level) for level in range(5)]
    assert [record["label"] for record in _records(source)] == [1, 0, -1, 2, 1]
    assert [record["name"] for record in _records(source)] == [f"{i}.png" for i in range(5)]
    assert source.class_names == ("0", "1", "2")
    assert source.name(3) == f"{tmp_path}/a.parquet[row group 1, row 1]"
    _read_from_threads_and_a_copy(source)
    _write_parquet(tmp_path / "a.parquet", [_png(7), _png(8)])
    plain = ParquetSource(str(tmp_path), "image", "")
    assert [record["image"] for record in _records(plain)] == [_png(7), _png(8)]
    assert plain.class_names == ()


def test_parquet_files_follow_each_other(tmp_path):
    for shard in range(3):
        _write_parquet(tmp_path / f"train-{shard}.parquet", [_png(2 * shard), _png(2 * shard + 1)])
    source = build_source(
        ConfigDict(
            {
                "kind": "parquet",
                "path": f"{tmp_path}/train-*.parquet",
                "image_column": "",
                "label_column": "",
            }
        )
    )
    assert [record["image"] for record in _records(source)] == [_png(level) for level in range(6)]


def test_hugging_face_class_names_are_found_in_the_schema(tmp_path):
    features = {"label": {"names": ["cat", "dog", "emu"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({"image": [_png(1), _png(2)], "label": [1, 0]}).replace_schema_metadata(
        metadata
    )
    pq.write_table(table, tmp_path / "a.parquet")
    source = ParquetSource(str(tmp_path), "image", "label")
    assert source.class_names == ("cat", "dog", "emu")
    assert [record["label"] for record in _records(source)] == [1, 0]
    unlabeled = table.set_column(1, "label", pa.array([-1, -1]))
    pq.write_table(unlabeled, tmp_path / "a.parquet")
    assert ParquetSource(str(tmp_path), "image", "label").class_names == ()


def test_at_most_two_row_groups_stay_in_memory(tmp_path):
    _write_parquet(tmp_path / "a.parquet", [_png(level) for level in range(10)])
    source = ParquetSource(str(tmp_path), "", "")
    _records(source)
    assert len(source._row_groups._handles) == 2


def test_parquet_rows_without_bytes_and_damaged_pages_are_os_errors(tmp_path):
    _write_parquet(tmp_path / "a.parquet", [_png(1), None], row_group_size=1)
    source = ParquetSource(str(tmp_path), "image", "")
    with pytest.raises(OSError, match="no image bytes"):
        source[1]
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[4:60] = bytes(56)
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(OSError, match="page header"):
        ParquetSource(str(tmp_path), "image", "")[0]


def test_what_many_parquet_rows_share_is_in_memory_once(tmp_path):
    image, label, rows = b"x" * 500_000, "y" * 500_000, 200  # 100 MB each, as rows
    images = [{"bytes": image, "path": label}] * rows
    _write_parquet(tmp_path / "a.parquet", images, rows, label=[label] * rows)
    assert (tmp_path / "a.parquet").stat().st_size < 2_000_000
    before = pa.total_allocated_bytes()
    source = ParquetSource(str(tmp_path), "image", "label")
    assert source[rows - 1] == {"image": image, "label": 0, "name": label}
    assert pa.total_allocated_bytes() - before < 20_000_000
    _, labels = parquet_module._read_contents(source._shards[0], "image.bytes", "label")
    assert len(labels) == rows
    assert len(set(map(id, labels))) == 1


def test_parquet_labels_have_a_bound_and_a_type(tmp_path, monkeypatch):
    _write_parquet(tmp_path / "a.parquet", [_png(1)], label=["cat"], other=[[1]])
    with pytest.raises(ValueError, match=r"'other' of .*class indices or names, got list"):
        ParquetSource(str(tmp_path), "image", "other")
    monkeypatch.setattr(parquet_module, "MAX_LABEL_BYTES", 10)
    with pytest.raises(ValueError, match=r"'label' of .* bytes, more than the 10"):
        ParquetSource(str(tmp_path), "image", "label")


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
def test_parquet_bytes_stored_as_differences_are_read_within_the_same_bounds(
    tmp_path, monkeypatch, encoding
):
    images = [_png(level) for level in (1, 2, 2, 3)]
    table = pa.table({"image": images, "label": ["cat", "dog", None, "cat"]})
    options = {"row_group_size": 2, "use_dictionary": False}
    options |= {"column_encoding": {"image": encoding, "label": encoding}}
    pq.write_table(table, tmp_path / "a.parquet", **options)
    source = ParquetSource(str(tmp_path), "image", "label")
    assert [record["image"] for record in _records(source)] == images
    assert [record["label"] for record in _records(source)] == [0, 1, -1, 0]
    monkeypatch.setattr(parquet_module, "MAX_ROW_GROUP_BYTES", len(images[0]) + 50)
    monkeypatch.setattr(parquet_module, "_require_sizes", lambda *_: [2, 2])
    with pytest.raises(OSError, match=r"row group 0 of .* more than .* smaller row groups"):
        ParquetSource(str(tmp_path), "image", "")[0]


def test_differences_that_grow_to_gigabytes_are_refused_in_little_memory(tmp_path):
    table = pa.table({"image": [b"x" * 5_000_000] * 1000})  # 5 GB of rows
    options = {"use_dictionary": False, "column_encoding": {"image": "DELTA_BYTE_ARRAY"}}
    pq.write_table(table, tmp_path / "a.parquet", write_statistics=False, **options)
    assert (tmp_path / "a.parquet").stat().st_size < 10_000_000
    source = ParquetSource(str(tmp_path), "image", "")
    with pytest.raises(OSError, match="more than 1,073,741,824 bytes"):
        source[0]


def test_a_parquet_footer_of_which_pyarrow_would_die_is_an_error(tmp_path):
    """Its functions for the metadata of row groups let exceptions of C++ end the process."""
    valid = samples.parquets()[0]
    footer = samples.parquet_footer(valid)
    optional = b"\x35\x02\x18\x05image"  # a column that is always there has fewer levels
    assert optional in footer
    required = footer.replace(optional, b"\x35\x00\x18\x05image")
    (tmp_path / "a.parquet").write_bytes(samples.with_footer(valid, required))
    source = ParquetSource(str(tmp_path), "image", "label")
    with pytest.raises(OSError, match=r"row group 0 of .*a\.parquet can't be read: .*histogram"):
        source[0]
    encodings = b"\x15\x0c\x19"  # of the first column, behind its type
    for damage in (b"\x15\x0c\x19\x05", b"\x15\x0c\x1c", b"\x15\x0c\x19\xff"):
        broken = footer.replace(encodings + footer[footer.index(encodings) + 3 :][:1], damage, 1)
        (tmp_path / "a.parquet").write_bytes(samples.with_footer(valid, broken))
        with pytest.raises(ValueError, match=r"a\.parquet is not a Parquet file, or is damaged"):
            ParquetSource(str(tmp_path), "image", "label")


def test_wrong_parquet_columns_are_named_with_the_known_ones(tmp_path):
    _write_parquet(tmp_path / "a.parquet", [_png(1)], mask=[b"x"], label=[1])
    with pytest.raises(ValueError, match=r"\['image', 'mask'\].*image_column"):
        ParquetSource(str(tmp_path), "", "")
    with pytest.raises(ValueError, match=r"no column 'picture'; .*'image', 'mask', 'label'"):
        ParquetSource(str(tmp_path), "picture", "")
    with pytest.raises(ValueError, match=r"'label' of .* must hold bytes"):
        ParquetSource(str(tmp_path), "label", "")
    with pytest.raises(ValueError, match="no column 'class'"):
        ParquetSource(str(tmp_path), "image", "class")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(ValueError, match=r"a\.parquet is not a Parquet file"):
        ParquetSource(str(tmp_path), "", "")


def test_row_groups_too_large_for_random_access_are_refused(tmp_path, monkeypatch):
    _write_parquet(tmp_path / "a.parquet", [bytes(3000)] * 4, row_group_size=4)
    monkeypatch.setattr(parquet_module, "MAX_ROW_GROUP_BYTES", 2000)
    with pytest.raises(ValueError, match="row_group_size=100"):
        ParquetSource(str(tmp_path), "", "")


def _write_array_records(folder, shards, class_names=()):
    folder.mkdir(exist_ok=True)
    for number, records in enumerate(shards):
        path = folder / shard_name(number, len(shards))
        writer = ArrayRecordWriter(str(path), WRITE_OPTIONS)
        for record in records:
            writer.write(encode_record(record))
        writer.close()
    counts = {shard_name(n, len(shards)): len(records) for n, records in enumerate(shards)}
    write_description(str(folder), Description(tuple(class_names), counts, None, None))


def _record(level, label=-1):
    return {"image": _png(level), "label": label, "name": f"猫/{level}.png"}


def test_array_records_come_back_as_they_were_written(tmp_path):
    shards = [[_record(0, 1), _record(1)], [], [_record(2, 0)]]
    _write_array_records(tmp_path / "set", shards, ("cat", "dog"))
    source = ArrayRecordSource(str(tmp_path / "set"))
    assert _records(source) == [record for shard in shards for record in shard]
    assert source.class_names == ("cat", "dog")
    assert source.name(2).endswith("set/images-00002-of-00003.arrayrecord[0]")
    _read_from_threads_and_a_copy(source)
    some = ArrayRecordSource(str(tmp_path / "set/images-0000[01]-*.arrayrecord"))
    assert _records(some) == shards[0]


def test_an_unfinished_or_incomplete_array_record_folder_is_refused(tmp_path):
    _write_array_records(tmp_path / "set", [[_record(0)], [_record(1)]])
    (tmp_path / "set" / shard_name(1, 2)).unlink()
    with pytest.raises(ValueError, match=r"missing \['images-00001-of-00002.arrayrecord'\]"):
        ArrayRecordSource(str(tmp_path / "set"))
    (tmp_path / "set/dataset.json").write_text('{"format": "else"}')
    with pytest.raises(ValueError, match=r"dataset\.json can't be read"):
        ArrayRecordSource(str(tmp_path / "set"))
    (tmp_path / "set/dataset.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"dataset\.json is missing"):
        ArrayRecordSource(str(tmp_path / "set"))


def test_a_damaged_array_record_shard_is_an_os_error(tmp_path):
    _write_array_records(tmp_path / "set", [[_record(0)]])
    path = tmp_path / "set" / shard_name(0, 1)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(OSError, match="damaged"):
        ArrayRecordSource(str(tmp_path / "set"))[0]


def test_records_keep_names_of_any_encoding_and_arrays_as_png():
    name = b"\xff\xfe.png".decode(errors="surrogateescape")
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    record = decode_record(encode_record({"image": pixels, "label": 3, "name": name}))
    assert (record["label"], record["name"]) == (3, name)
    np.testing.assert_array_equal(np.array(Image.open(BytesIO(record["image"]))), pixels)
    with pytest.raises(ValueError, match="dino_jax image records"):
        decode_record(b"\x01")


def test_worker_processes_read_the_same_images_from_all_kinds_of_shards(tmp_path):
    _write_tar(tmp_path / "a.tar", *((f"{level}.png", _png(level)) for level in range(5)))
    _write_parquet(tmp_path / "a.parquet", [_png(10 + level) for level in range(5)])
    _write_array_records(tmp_path / "set", [[_record(20 + level) for level in range(5)]])
    sources = {
        "tar": {"kind": "tar", "path": f"{tmp_path}/a.tar"},
        "parquet": {
            "kind": "parquet",
            "path": f"{tmp_path}/a.parquet",
            "image_column": "",
            "label_column": "",
        },
        "records": {"kind": "arrayrecord", "path": f"{tmp_path}/set"},
    }
    for entry in sources.values():
        entry["weight"] = 1.0
    source = build_source(ConfigDict({"kind": "mixture", "sources": sources}))
    multi_crop = build_multi_crop(quickstart.get_config().augment)

    def batches(workers):
        stream = build_train_stream(
            source,
            multi_crop,
            seed=0,
            batch_size=15,
            start_step=0,
            host=0,
            hosts=1,
            workers=workers,
            threads=2,
            max_pixels=100,
        )
        batch = next(stream)
        stream.close()
        return batch

    expected, actual = batches(0), batches(1)
    assert (expected["unreadable"] == -1).all()
    for key in expected:
        np.testing.assert_array_equal(actual[key], expected[key])


def _digest(source):
    return contents_of("data", source)["data"].digest


def test_shards_are_known_by_names_sizes_and_labels(tmp_path):
    found = []
    for name, level, label in (("a", 1, 0), ("b", 1, 0), ("a", 250, 0), ("a", 1, 1)):
        members = (
            (f"{name}.png", _png(level) + b" " * level),
            (f"{name}.cls", str(label).encode()),
        )
        found.append(_digest(TarSource(_write_tar(tmp_path / "a.tar", *members))))
    for label in (0, 1):
        table = pa.table({"image": [_png(1)], "label": [label]})
        pq.write_table(table, tmp_path / "a.parquet")
        found.append(_digest(ParquetSource(str(tmp_path), "image", "label")))
    assert len(set(found)) == len(found)
    pq.write_table(pa.table({"image": [_png(1), _png(1)]}), tmp_path / "a.parquet")
    assert _digest(ParquetSource(str(tmp_path), "image", "")) not in found
