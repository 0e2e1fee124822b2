"""Files of dense features, read with NumPy alone."""

import json

import numpy as np
import pytest

from dino_jax.embedding.dense_shards import DenseRow, DenseShards


def make_row(name, grid, seed=0):
    features = np.random.default_rng(seed).normal(size=(*grid, 6)).astype(np.float32)
    return DenseRow(name, "cat", (50, 60), features)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_shard_is_read_with_numpy_by_its_index(dtype, tmp_path):
    rows = [make_row("a", (2, 3), 1), DenseRow("b", None, (0, 0), None), make_row("c", (4, 1), 2)]
    shards = DenseShards(str(tmp_path), 1, dtype)
    assert not shards.is_written(0)
    shards.write(0, iter(rows))
    assert shards.is_written(0) and shards.count_rows() == (2, 1)
    stored = np.load(tmp_path / "patches-00000-of-00001.npy", mmap_mode="r")
    assert stored.dtype == dtype and stored.shape == (2 * 3 + 4 * 1, 6)
    lines = (tmp_path / "images-00000-of-00001.jsonl").read_text().splitlines()
    assert len(lines) == 2
    for line, row in zip(map(json.loads, lines), (rows[0], rows[2]), strict=True):
        height, width = line["grid"]
        found = stored[line["first"] : line["first"] + height * width].reshape(height, width, -1)
        np.testing.assert_array_equal(found, row.features.astype(dtype))
        assert (line["name"], line["label"], line["size"]) == (row.name, "cat", [50, 60])
    assert (tmp_path / "unreadable-00000-of-00001.txt").read_text() == "b\n"


def test_a_shard_without_a_readable_image_is_an_empty_array(tmp_path):
    shards = DenseShards(str(tmp_path), 1, "float16")
    shards.write(0, iter([DenseRow("b", None, (0, 0), None)]))
    assert np.load(tmp_path / "patches-00000-of-00001.npy").size == 0
    assert shards.count_rows() == (0, 1)


@pytest.mark.parametrize(
    ("value", "message"),
    [(70_000, "does not fit into float16; use --dtype=float32"), (np.nan, "not finite numbers")],
)
def test_what_float16_cannot_hold_is_an_error_and_leaves_no_shard(value, message, tmp_path):
    row = make_row("a", (2, 3))
    row.features[1, 1, 1] = value
    shards = DenseShards(str(tmp_path), 1, "float16")
    with pytest.raises(ValueError, match=message):
        shards.write(0, iter([row]))
    assert list(tmp_path.iterdir()) == []
