"""`dino-jax search evaluate` on indexes without a model."""

import json

import numpy as np
import pytest
from PIL import Image

from dino_jax.search.codes import unit_rows
from dino_jax.search.measures import measure
from dino_jax.search.segment import Row
from dino_jax.search.writer import writing
from tests.search.photos import PHOTOS, PRODUCTS, run, save_photos
from tests.search.small_index import manifest

NAMES = [f"p{product}-{number}.png" for product in range(PRODUCTS) for number in range(PHOTOS)]
LABELS = np.repeat(np.arange(PRODUCTS), PHOTOS)


def made(noise: float) -> np.ndarray:
    rng = np.random.default_rng(4)
    products = np.repeat(rng.normal(size=(PRODUCTS, 24)), PHOTOS, axis=0)
    return unit_rows(products + noise * rng.normal(size=products.shape))


def make(folder, vectors, names, photos=""):
    table = {
        name: {"sku": name[:2], "part": "query" if name[3] == "0" else "gallery"} for name in NAMES
    }
    with writing(folder, manifest(photos=str(photos))) as writer:
        writer.add([(vectors, [Row(name) for name in names])])
        writer.set_table(table)
        writer.commit()


@pytest.fixture
def place(tmp_path):
    save_photos(tmp_path / "photos")
    vectors = np.concatenate([made(1.5), made(1.5)[:1]])
    make(tmp_path / "i", vectors, [*NAMES, "unlabelled.png"], tmp_path / "photos")
    order = np.random.default_rng(0).permutation(len(NAMES))
    make(tmp_path / "better", made(0.1)[order], [NAMES[i] for i in order])
    return tmp_path


def test_measures_are_those_of_the_vectors(place, capsys):
    out = place / "result.json"
    assert run("evaluate", place / "i", "--label=sku", f"--out={out}") == 0
    result, vectors = json.loads(out.read_text()), made(1.5).astype(np.float32)
    wanted = measure(vectors, LABELS, vectors, LABELS, np.arange(len(NAMES)), (1, 10, 100, 1000))
    assert result["means"] == pytest.approx(wanted.means(), rel=1e-9)
    assert (result["queries"], result["lone"], result["without_label"]) == (18, 0, 1)
    shown = capsys.readouterr().out
    assert "18 queries, 18 photos to search, 6 classes; left out: 0 lone" in shown
    assert f"map@r         {result['means']['map@r']:.4f}" in shown


def test_queries_and_gallery_are_parts_of_the_index(place, capsys):
    parts = ("--queries", "part=query", "--gallery", "part=gallery")
    assert run("evaluate", place / "i", "--label=sku", *parts) == 0
    shown = capsys.readouterr().out
    assert "6 queries, 12 photos to search" in shown and "recall@30" in shown


def test_two_indexes_are_compared_on_the_same_photos(place, capsys):
    out = place / "result.json"
    options = ("--label=sku", f"--against={place / 'better'}", "--resamples=500", f"--out={out}")
    assert run("evaluate", place / "i", *options) == 0
    gains = json.loads(out.read_text())["against"]["gains"]
    wanted = []
    for noise in (1.5, 0.1):
        vectors = made(noise).astype(np.float32)
        scores = measure(vectors, LABELS, vectors, LABELS, np.arange(len(NAMES)), (1,))
        wanted.append(scores.means()["map@r"])
    difference, low, high = gains["map@r"]
    assert difference == pytest.approx(wanted[1] - wanted[0], rel=1e-9)
    assert 0 < low <= difference <= high
    assert "minus" in capsys.readouterr().out


def test_the_worst_classes_are_on_a_sheet(place):
    assert run("evaluate", place / "i", "--label=sku", f"--out={place / 'worst.png'}") == 0
    with Image.open(place / "worst.png") as image:
        assert image.height >= PRODUCTS * 160 and image.width >= 6 * 160


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--label=skv",), "no column 'skv'; did you mean 'sku'"),
        (("--label=sku", "--where", "sku=none"), "0 queries and 0 photos to search"),
        (("--label=sku", "--where", "part=query"), "none of the queries has another photo"),
        (("--label=sku", "--out=x.txt"), "must end with .json"),
    ],
)
def test_what_cannot_be_measured_is_said(place, capsys, options, words):
    with pytest.raises(SystemExit):
        run("evaluate", place / "i", *options)
    assert words in capsys.readouterr().err
