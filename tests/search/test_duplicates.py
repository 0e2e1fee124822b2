"""Duplicates in three classes, in groups that do not chain."""

import csv

import numpy as np
import pytest
from PIL import Image

from dino_jax.search.codes import unit_rows
from dino_jax.search.pairs import stars, survey
from dino_jax.search.same_picture import is_same, look_at
from dino_jax.search.segment import Row
from dino_jax.search.writer import writing
from tests.search.photos import run, save_photo
from tests.search.small_index import DIM, manifest
from tests.search.vectors import catalogue


def plain_pairs(vectors, threshold):
    exact = vectors.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    cosines = np.round(exact @ exact.T, 9)
    left, right = np.nonzero(np.triu(cosines >= threshold, 1))
    return np.stack([left, right], axis=1), cosines


@pytest.mark.parametrize("threshold", [0.6, 0.97])
def test_all_pairs_above_the_threshold_are_found(threshold):
    vectors = unit_rows(catalogue(1500, 48, 0))
    found = survey(vectors, threshold)
    pairs, cosines = plain_pairs(vectors, threshold)
    assert len(pairs) > 100
    np.testing.assert_array_equal(found.pairs, pairs)
    np.testing.assert_allclose(found.cosines, cosines[tuple(pairs.T)], rtol=0, atol=1e-9)
    np.fill_diagonal(cosines, -1)
    np.testing.assert_allclose(found.nearest, cosines.max(axis=1), rtol=0, atol=1e-5)


def test_a_copy_has_the_cosine_1():
    vectors = unit_rows(np.repeat(catalogue(20, 512, 1), 2, axis=0))
    found = survey(vectors, 1.0)
    assert found.pairs.tolist() == [[2 * i, 2 * i + 1] for i in range(20)]
    assert (found.cosines == 1).all()


def test_too_many_pairs_are_refused_with_advice(monkeypatch):
    monkeypatch.setattr("dino_jax.search.pairs.MOST_PAIRS", 10)
    with pytest.raises(ValueError, match=r"--threshold=0\.1 gives more than 10 pairs"):
        survey(unit_rows(np.ones((8, 4))), 0.1)


def test_star_groups_do_not_chain():
    pairs = np.array([[0, 1], [1, 2], [2, 3], [3, 4]])
    found = stars(pairs, np.array([0.9, 0.8, 0.95, 0.7]), [0, 1, 2, 3, 4])
    assert [(one.kept, one.others) for one in found] == [(0, [(1, 0.9)]), (2, [(3, 0.95)])]
    found = stars(pairs, np.array([0.9, 0.8, 0.95, 0.7]), [3, 0, 1, 2, 4])
    assert [(one.kept, one.others) for one in found] == [
        (3, [(2, 0.95), (4, 0.7)]),
        (0, [(1, 0.9)]),
    ]


def pixels(product: int, number: int, tmp_path) -> np.ndarray:
    save_photo(tmp_path / "x.png", product, number, size=120)
    return np.asarray(Image.open(tmp_path / "x.png"))


def test_size_and_compression_leave_a_picture_the_same(tmp_path):
    image = Image.fromarray(pixels(3, 0, tmp_path))
    image.resize((41, 41), Image.Resampling.LANCZOS).save(tmp_path / "small.png")
    image.save(tmp_path / "poor.jpg", quality=30)
    one = look_at(np.asarray(image))
    for name in ("small.png", "poor.jpg"):
        assert is_same(one, look_at(np.asarray(Image.open(tmp_path / name).convert("RGB"))))
    assert not is_same(one, look_at(pixels(4, 0, tmp_path)))
    assert not is_same(one, look_at(np.asarray(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))))
    assert not is_same(one, look_at(np.asarray(image.resize((120, 110)))))


@pytest.fixture
def place(tmp_path):
    """An index of six photographs: a copy, a small version, a similar one and two others."""
    photos = tmp_path / "photos"
    save_photo(photos / "a.png", 1, 0, size=96)
    (photos / "copy.png").write_bytes((photos / "a.png").read_bytes())
    Image.open(photos / "a.png").resize((48, 48)).save(photos / "small.png")
    for product, name in enumerate(("similar.png", "b.png", "c.png"), start=2):
        save_photo(photos / name, product, 0)
    near = np.zeros((6, DIM))
    near[:, 0] = 1
    near[2, 1], near[3, 2] = 0.1, 0.4
    near[4], near[5] = np.eye(DIM)[5], np.eye(DIM)[6]
    names = ("a.png", "copy.png", "small.png", "similar.png", "b.png", "c.png")
    rows = [Row(name, size=(photos / name).stat().st_size) for name in names]
    rows[:2] = [row._replace(sha256="aa") for row in rows[:2]]
    with writing(tmp_path / "i", manifest(photos=str(photos))) as writer:
        writer.add([(unit_rows(near), rows)])
        writer.commit()
    return tmp_path


def test_groups_have_their_classes_in_the_csv_and_on_a_sheet(place, capsys):
    before = sorted((place / "photos").iterdir())
    assert run("duplicates", place / "i", "--threshold=0.9", f"--out={place / 'out'}") == 0
    out = capsys.readouterr().out
    assert "1 groups with 3 photos besides the kept ones" in out and "nothing was deleted" in out
    assert (
        "(1 same bytes, 1 same picture, 1 similar); smallest cosine to a kept photo 0.9285" in out
    )
    with (place / "out/duplicates.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(x["role"], x["name"], x["kind"]) for x in lines] == [
        ("kept", "a.png", ""),
        ("like it", "copy.png", "same bytes"),
        ("like it", "small.png", "same picture"),
        ("like it", "similar.png", "similar"),
    ]
    assert [line["width"] for line in lines] == ["96", "96", "48", "48"]
    assert lines[1]["cosine"] == "1.000000"
    assert Image.open(place / "out/same_bytes.png").height > 160
    assert sorted((place / "photos").iterdir()) == before


def test_the_histogram_comes_before_a_threshold(place, capsys):
    assert run("duplicates", place / "i") == 0
    out = capsys.readouterr().out
    assert "pass --threshold=COSINE" in out and "a.png  ~  copy.png" in out
    counts = [int(line.split()[3]) for line in out.splitlines()[1:-1]]
    assert sum(counts) == 6 and counts[-1] == 3


def test_photos_that_are_gone_are_said_and_count_as_similar(place, capsys):
    options = ("--threshold=0.9", f"--out={place / 'out'}", f"--photos={place / 'i'}")
    assert run("duplicates", place / "i", *options) == 0
    out, err = capsys.readouterr()
    assert "4 photos of the groups can't be read" in err
    assert "(1 same bytes, 0 same picture, 2 similar)" in out


def test_a_threshold_without_a_place_for_the_result_is_refused(place, capsys):
    with pytest.raises(SystemExit):
        run("duplicates", place / "i", "--threshold=0.9")
    assert "--threshold needs --out=DIR" in capsys.readouterr().err
