"""The rows of a shard name every image on one line."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from dino_jax.data.pipeline import build_eval_stream
from dino_jax.data.sources import FolderSource
from dino_jax.embedding.choices import FORMATS
from dino_jax.embedding.rows import collect, rows_of
from dino_jax.embedding.shards import Shards


@pytest.mark.parametrize("kind", FORMATS)
def test_images_are_counted_whatever_their_names_hold(kind, tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(buffer, "PNG")
    images, out = tmp_path / "images", tmp_path / "out"
    out.mkdir()
    for label in ("cat\udcff", "dog\n"):
        (images / label).mkdir(parents=True)
        (images / label / "good\n\udcfe.png").write_bytes(buffer.getvalue())
        (images / label / "bad\n\u2028\udcfe.png").write_bytes(b"no image")
    source = FolderSource(images)
    (batch,) = build_eval_stream(source, image_size=4, batch_size=4, max_pixels=100)
    shards = Shards(str(out), 1, kind)
    shards.write(0, collect(rows_of(np.zeros((4, 3), np.float32), batch, source)))
    assert shards.count_rows() == (2, 2)
    lost = (out / "unreadable-00000-of-00001.txt").read_text("utf-8").split("\n")
    expected = [rf"{images}/{label}/bad\n\u2028\xfe.png" for label in (r"cat\xff", r"dog\n")]
    assert lost == [*expected, ""]
    if kind == "npy":
        lines = (out / "images-00000-of-00001.jsonl").read_text("utf-8").splitlines()
        first = {"name": r"cat\xff/good\n\xfe.png", "label": r"cat\xff"}
        assert json.loads(lines[0]) == first
