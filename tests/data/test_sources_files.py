"""Text lists and glob patterns as sources."""

import os
import pickle
from io import BytesIO

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from dino_jax.data.sources import GlobSource, ListSource, build_source
from dino_jax.data.sources.base import Blocks, index_labels


def _png(level):
    buffer = BytesIO()
    Image.fromarray(np.full((6, 5, 3), level, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _write(root, *names):
    for level, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_png(level))


def _records(source):
    return [source[index] for index in range(len(source))]


def test_a_list_keeps_its_order_and_starts_at_its_own_folder(tmp_path):
    _write(tmp_path / "images", "a.png", "b.png")
    absolute = tmp_path / "images/a.png"
    (tmp_path / "train.txt").write_text(f"images/b.png\n\n{absolute}\r\n")
    source = ListSource(tmp_path / "train.txt")
    assert [source.name(index) for index in range(2)] == [
        str(tmp_path / "images/b.png"),
        str(absolute),
    ]
    assert [record["image"] for record in _records(source)] == [_png(1), _png(0)]
    assert source.class_names == ()
    assert pickle.loads(pickle.dumps(source))[1] == source[1]


def test_labels_of_a_list_are_names_or_indices_and_may_be_missing(tmp_path):
    _write(tmp_path, "1.png", "2.png", "3.png")
    (tmp_path / "names.txt").write_text("1.png\tdog\n2.png\n3.png\tcat\n")
    (tmp_path / "indices.txt").write_text("1.png\t3\n2.png\t0\n3.png\n")
    named, indexed = ListSource(tmp_path / "names.txt"), ListSource(tmp_path / "indices.txt")
    assert named.class_names == ("cat", "dog")
    assert [record["label"] for record in _records(named)] == [1, -1, 0]
    assert indexed.class_names == ("0", "1", "2", "3")
    assert [record["label"] for record in _records(indexed)] == [3, 0, -1]


def test_a_list_holds_names_in_any_script_and_encoding(tmp_path):
    names = ["ünï 1.png", "猫.png", os.fsdecode(b"\xff\xfe.png")]
    _write(tmp_path, *names)
    (tmp_path / "list.txt").write_bytes("\n".join(names).encode(errors="surrogateescape"))
    assert [record["name"] for record in _records(ListSource(tmp_path / "list.txt"))] == names


def test_a_missing_file_of_a_list_is_an_os_error_when_it_is_read(tmp_path):
    (tmp_path / "list.txt").write_text("nowhere.png\n")
    source = ListSource(tmp_path / "list.txt")
    with pytest.raises(OSError, match=r"nowhere\.png"):
        source[0]


def test_a_bad_line_of_a_list_is_named(tmp_path):
    (tmp_path / "list.txt").write_text("a.png\t1\nb.png\t1\t2\n")
    with pytest.raises(ValueError, match=r"line 2 of .*list\.txt.*PATH<tab>LABEL"):
        ListSource(tmp_path / "list.txt")


def test_empty_and_missing_lists_are_named(tmp_path):
    (tmp_path / "list.txt").write_text("\n\n")
    with pytest.raises(ValueError, match="names no images"):
        ListSource(tmp_path / "list.txt")
    with pytest.raises(FileNotFoundError, match=r"other\.txt"):
        ListSource(tmp_path / "other.txt")


def test_a_pattern_takes_what_matches_whatever_the_suffix(tmp_path):
    _write(tmp_path, "cat/1.png", "dog/x/2", "dog/3.jpg", "dog/.4.png")
    source = GlobSource(f"{tmp_path}/**/*")
    assert [record["name"] for record in _records(source)] == ["cat/1.png", "dog/3.jpg", "dog/x/2"]
    assert source.class_names == ("cat", "dog")
    assert [record["label"] for record in _records(source)] == [0, 1, 1]
    assert source.name(2) == f"{tmp_path}/dog/x/2"


def test_files_beside_each_other_have_no_labels_from_a_pattern(tmp_path):
    _write(tmp_path, "1.png", "2.png", "3.jpg")
    source = GlobSource(f"{tmp_path}/*.png")
    assert len(source) == 2
    assert source.class_names == ()


def test_a_relative_pattern_starts_in_the_current_folder(tmp_path, monkeypatch):
    _write(tmp_path, "1.png", "2.png")
    monkeypatch.chdir(tmp_path)
    assert [record["image"] for record in _records(GlobSource("*.png"))] == [_png(0), _png(1)]


def test_a_pattern_without_a_match_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"\*\.png"):
        GlobSource(f"{tmp_path}/*.png")


def test_build_source_builds_lists_and_patterns(tmp_path):
    _write(tmp_path, "1.png")
    (tmp_path / "list.txt").write_text("1.png\n")
    assert len(build_source(ConfigDict({"kind": "list", "path": f"{tmp_path}/list.txt"}))) == 1
    assert len(build_source(ConfigDict({"kind": "glob", "path": f"{tmp_path}/*.png"}))) == 1
    with pytest.raises(ValueError, match="list source needs 'path'"):
        build_source(ConfigDict({"kind": "list", "path": ""}))


def test_minus_one_is_no_label():
    class_names, labels = index_labels([-1, 1, None, "-1"])
    assert class_names == ("0", "1")
    assert labels.tolist() == [-1, 1, -1, -1]
    assert index_labels([-1, -1])[0] == ()


def test_class_indices_out_of_range_are_refused():
    with pytest.raises(ValueError, match="-2 to 4"):
        index_labels([4, -2])
    with pytest.raises(ValueError, match="10000000000"):
        index_labels(["10000000000"])


def test_what_only_looks_like_an_index_is_a_name():
    long = "1" * 5000
    assert index_labels(["--5", long])[0] == ("--5", long)
    with pytest.raises(ValueError, match="got 9999999999999999999 to 9999999999999999999"):
        index_labels(["9" * 19])


def test_blocks_find_every_index_and_no_other():
    blocks = Blocks([2, 0, 3])
    assert [blocks.locate(index) for index in range(5)] == [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)]
    for index in (-1, 5):
        with pytest.raises(IndexError):
            blocks.locate(index)
