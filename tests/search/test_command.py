"""build, update, remove, compact and query, from photographs to answers."""

import functools
import json
import os
import shutil
import types

import numpy as np
import pytest
from PIL import Image

import dino_jax
from dino_jax.__main__ import main
from dino_jax.data.view import resize_for_evaluation
from dino_jax.search.index import open_index
from dino_jax.search.photos import views_of
from dino_jax.search.writer import writing
from dino_jax.weights.model import load
from tests.saved_model import save_tiny_vit
from tests.search.photos import run, save_photo, save_photos, save_table


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return save_tiny_vit(tmp_path_factory.mktemp("run"), width=24)


@pytest.fixture(scope="module")
def other_model(tmp_path_factory):
    return save_tiny_vit(tmp_path_factory.mktemp("other"), width=12)


@pytest.fixture(scope="module", autouse=True)
def loaded_once():
    """Each command loads its model; here, where many follow each other, the first one does."""
    with pytest.MonkeyPatch.context() as patch:
        once = functools.cache(load)
        for module in ("build", "origin"):
            patch.setattr(f"dino_jax.search.{module}.load", once)
        yield


@pytest.fixture(scope="module")
def first(tmp_path_factory, workdir):
    """A folder with photos/, table.csv and the index i/ of them."""
    folder = tmp_path_factory.mktemp("first")
    table = save_table(folder / "table.csv", save_photos(folder / "photos"))
    assert build(folder, workdir, f"--metadata={table}") == 0
    return folder


@pytest.fixture
def place(first, tmp_path):
    """A copy of it, whose index knows the photographs of the original."""
    return shutil.copytree(first, tmp_path / "place")


def build(place, workdir, *options: str) -> int:
    return run("build", place / "i", workdir, place / "photos", "--batch-size=8", *options)


def ask(place, capsys, *options: object) -> list[dict]:
    """The hits of a query."""
    out = place / "hits.jsonl"
    assert run("query", place / "i", *options, f"--out={out}") == 0
    capsys.readouterr()
    return [json.loads(line) for line in out.read_text().splitlines()]


def expected(workdir, pixels) -> np.ndarray:
    model = dino_jax.load(workdir)
    view = resize_for_evaluation(pixels, model.image_size)
    vector = np.asarray(model(view[None])["cls"][0], np.float64)
    return vector / np.linalg.norm(vector)


def test_the_index_holds_the_features_of_every_photo(place, workdir):
    index = open_index(place / "i")
    names = sorted(path.name for path in (place / "photos").iterdir())
    assert [row.name for _, row in index.rows()] == names
    for number in (0, 7):
        pixels = np.array(Image.open(place / "photos" / names[number]))
        wanted = expected(workdir, pixels)
        np.testing.assert_allclose(index.vector(number), wanted, rtol=0, atol=1e-3)


def test_a_photo_finds_itself_and_is_proven(place, capsys):
    hits = ask(place, capsys, place / "photos/p3-1.png", "-k", 4)
    assert [hit["rank"] for hit in hits] == [1, 2, 3, 4]
    assert hits[0]["name"] == "p3-1.png" and abs(hits[0]["score"] - 1) < 1e-3
    assert all(hit["proven"] for hit in hits) and hits[0]["values"] == {"sku": "p3", "price": "30"}


def test_filters_groups_and_rows(place, capsys):
    hits = ask(place, capsys, place / "photos/p3-1.png", "--where", "price<30", "price>0", "-k", 99)
    assert {hit["values"]["sku"] for hit in hits} == {"p1", "p2"} and len(hits) == 6
    hits = ask(place, capsys, place / "photos/p3-1.png", "--group=sku", "-k", 4)
    assert len({hit["group"] for hit in hits}) == 4 and hits[0]["group"] == "p3"
    hits = ask(place, capsys, place / "photos/p3-1.png", "--group=sku", "-k", 50)
    assert len(hits) == 6
    hits = ask(place, capsys, "--row=p3-1.png", "-k", 50)
    assert len(hits) == 17 and "p3-1.png" not in [hit["name"] for hit in hits]


def test_a_box_is_cut_before_resizing(place, workdir, capsys):
    pixels = np.array(Image.open(place / "photos/p2-0.png"))[4:40, 10:44]
    index = open_index(place / "i")
    wanted = index.search(expected(workdir, pixels), 1)
    for query in (place / "photos/p2-0.png", "--row=p2-0.png"):
        hits = ask(place, capsys, query, "--box=10,4,44,40", "-k", 2)
        if query != "--row=p2-0.png":
            assert hits[0]["row"] == wanted.rows[0]
            assert abs(hits[0]["score"] - wanted.scores[0]) < 1e-3


def test_several_photos_of_one_thing_are_their_mean(place, workdir, capsys):
    paths = [place / f"photos/p4-{number}.png" for number in range(3)]
    mean = np.mean([expected(workdir, np.array(Image.open(path))) for path in paths], axis=0)
    wanted = open_index(place / "i").search(mean, 5)
    hits = ask(place, capsys, *paths, "-k", 5)
    np.testing.assert_allclose([hit["score"] for hit in hits], wanted.scores, atol=1e-3)


def test_the_table_says_what_scores_mean(place, capsys):
    capsys.readouterr()
    assert run("query", place / "i", place / "photos/p1-1.png", "-k", 2) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-4].split() == ["rank", "cosine", "photo", "sku", "price"]
    assert out[-3].split()[2:] == ["p1-1.png", "p1", "10"]
    assert out[-1].startswith("exact, proven, over 18 photos; 1.00 is the same file")


def test_views_are_a_photo_mirrored_and_turned():
    photo = np.arange(2 * 3 * 3).reshape(2, 3, 3)
    views = views_of(photo, ["turned", "mirrored"])
    assert len({(view.shape, view.tobytes()) for view in views}) == len(views) == 8
    assert np.array_equal(views[1], np.rot90(photo)) and np.array_equal(views[4], photo[:, ::-1])
    assert len(views_of(photo, ["turned"])) == 4 and len(views_of(photo, [])) == 1


def test_views_are_added_to_the_mean(place, workdir, capsys):
    pixels = np.array(Image.open(place / "photos/p2-0.png"))
    both = [expected(workdir, view) for view in views_of(pixels, ["mirrored"])]
    wanted = open_index(place / "i").search(np.mean(both, axis=0), 3)
    hits = ask(place, capsys, place / "photos/p2-0.png", "--views", "mirrored", "-k", 3)
    assert [hit["row"] for hit in hits] == wanted.rows.tolist()
    np.testing.assert_allclose([hit["score"] for hit in hits], wanted.scores, atol=1e-3)


def test_a_network_of_other_channels_is_refused(place, monkeypatch, capsys):
    network = types.SimpleNamespace(backbone=types.SimpleNamespace(in_channels=4))
    model = types.SimpleNamespace(title="multispectral", network=network)
    for module in ("build", "origin"):
        monkeypatch.setattr(f"dino_jax.search.{module}.load", lambda *_: model)
    photo = place / "photos/p2-0.png"
    for words in (("build", place / "n", "m", place / "photos"), ("query", place / "i", photo)):
        error = wrong(capsys, *words)
        assert "multispectral takes images of 4 channels; search reads photos of 3" in error


@pytest.mark.parametrize("name", ["sheet.png", "sheet.jpg"])
def test_a_contact_sheet_shows_queries_and_hits(place, capsys, name):
    out = place / name
    options = ("-k", 6, f"--out={out}")
    assert run("query", place / "i", place / "photos/p1-1.png", *options) == 0
    with Image.open(out) as image:
        assert image.format == {"png": "PNG", "jpg": "JPEG"}[name[-3:]]
        assert image.height > 3 * 160 and image.width >= 5 * 160


def test_update_counts_new_changed_renamed_and_vanished_photos(place, capsys):
    photos = place / "photos"
    before = open_index(place / "i")
    save_photo(photos / "p9-0.png", 9, 0)
    save_photo(photos / "p0-0.png", 8, 0)
    (photos / "p1-0.png").rename(photos / "renamed.png")
    (photos / "p2-0.png").unlink()
    os.utime(photos / "p3-0.png", ns=(1, 1))  # its time alone has changed
    (photos / "broken.png").write_bytes(b"no image")
    capsys.readouterr()
    assert run("update", place / "i", photos, "--batch-size=4") == 0
    out, err = capsys.readouterr()
    assert "2 new, 1 changed, 1 renamed, 1 vanished; 1 could not be read; 18 photos now" in out
    assert "broken.png" in err
    index = open_index(place / "i")
    assert {row.name for _, row in index.rows()} == {
        path.name for path in photos.iterdir() if path.name != "broken.png"
    }
    same = index.vector(index.find("renamed.png")), before.vector(before.find("p1-0.png"))
    np.testing.assert_array_equal(*same)
    changed = index.vector(index.find("p0-0.png")), before.vector(before.find("p0-0.png"))
    assert not np.array_equal(*changed)
    assert run("update", place / "i", "--batch-size=4") == 0
    assert "1 new, 0 changed, 0 renamed, 0 vanished; 1 could not" in capsys.readouterr().out


def test_a_new_table_needs_no_model(place, capsys, monkeypatch):
    monkeypatch.setattr("dino_jax.search.update.open_models", None)
    table = place / "new.csv"
    table.write_text("photo,price\np0-0.png,7\nnobody.png,1\n")
    assert run("update", place / "i", f"--metadata={table}", "--key=photo") == 0
    out = capsys.readouterr().out
    assert "1 columns of 2 photos; 17 photos of the index have no row in it, 1 rows name" in out
    assert open_index(place / "i").values(0) == {"price": "7"}


def test_remove_and_compact(place, capsys):
    assert run("remove", place / "i", "p0-0.png", "p0-1.png") == 0
    assert "2 photos removed, 16 left" in capsys.readouterr().out
    assert run("remove", place / "i", "--where", "sku=p1") == 0
    assert "28% of its rows are removed: dino-jax search compact" in capsys.readouterr().out
    hits = ask(place, capsys, place / "photos/p0-0.png", "-k", 99)
    assert len(hits) == 13 and not {"p0-0.png", "p1-0.png"} & {hit["name"] for hit in hits}
    assert run("compact", place / "i") == 0
    assert "28% of 18 rows removed, 1 segments; now 13 rows" in capsys.readouterr().out
    assert [hit["name"] for hit in ask(place, capsys, place / "photos/p0-0.png", "-k", 99)] == [
        hit["name"] for hit in hits
    ]
    assert run("compact", place / "i") == 0
    assert "nothing to do" in capsys.readouterr().out


def test_an_index_of_embedded_vectors_answers_as_one_of_photos(place, workdir, capsys):
    options = ("--reduce=pca", "--dim=8", "--batch-size=8")
    arguments = [str(workdir), str(place / "photos"), f"--out={place / 'e'}", *options]
    assert main(["embed", *arguments]) == 0
    assert run("build", place / "from", workdir, f"--from={place / 'e'}") == 0
    assert "18 photos of 8 numbers; their files are in" in capsys.readouterr().out
    assert run("build", place / "direct", workdir, place / "photos", *options) == 0
    answers = []
    for name in ("from", "direct"):
        out = place / f"{name}.jsonl"
        photo = place / "photos/p5-2.png"
        assert run("query", place / name, photo, "-k", 5, f"--out={out}") == 0
        answers.append([json.loads(line) for line in out.read_text().splitlines()])
    assert answers[0][0]["name"] == "p5-2.png"
    assert [hit["name"] for hit in answers[0]] == [hit["name"] for hit in answers[1]]
    capsys.readouterr()
    assert run("update", place / "from", "--batch-size=4") == 0
    assert "0 new, 0 changed, 0 renamed, 0 vanished" in capsys.readouterr().out


def test_parquet_shards_and_an_index_without_its_model(place, workdir, capsys):
    pytest.importorskip("pyarrow")
    options = ("--format=parquet", "--shard-images=7", "--batch-size=8")
    arguments = [str(workdir), str(place / "photos"), f"--out={place / 'e'}", *options]
    assert main(["embed", *arguments]) == 0
    assert run("build", place / "n", f"--from={place / 'e'}") == 0
    photo = place / "photos/p5-2.png"
    with pytest.raises(SystemExit):
        run("query", place / "n", photo)
    assert "does not know its model" in capsys.readouterr().err
    assert run("query", place / "n", photo, f"--model={workdir}", "-k", 1) == 0
    assert "p5-2.png" in capsys.readouterr().out
    assert run("query", place / "n", "--row=p5-2.png", "-k", 1) == 0


def test_a_build_that_was_stopped_continues(place, workdir, capsys, monkeypatch):
    monkeypatch.setattr("dino_jax.search.update.BLOCK", 5)
    real = writing

    class Stop(Exception):
        pass

    def stopping(*arguments):
        context = real(*arguments)
        writer = context.__enter__()
        commit, count = writer.commit, iter(range(3))

        def limited():
            if next(count, None) is None:
                context.__exit__(None, None, None)
                raise Stop
            commit()

        writer.commit = limited
        context.__enter__ = lambda: writer
        return type("C", (), {"__enter__": lambda _: writer, "__exit__": lambda *_: None})()

    monkeypatch.setattr("dino_jax.search.build.writing", stopping)
    options = (place / "b", workdir, place / "photos", "--batch-size=4")
    with pytest.raises(Stop):
        run("build", *options)
    assert len(open_index(place / "b")) == 10
    monkeypatch.setattr("dino_jax.search.build.writing", real)
    capsys.readouterr()
    assert run("build", *options) == 0
    assert "8 new, 0 changed" in capsys.readouterr().out
    one, other = open_index(place / "b"), open_index(place / "i")
    every = np.arange(18)
    np.testing.assert_allclose(one.vectors(every), other.vectors(every), atol=1e-3)


def wrong(capsys, *arguments: object) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_another_model_is_an_error_that_names_both(place, other_model, workdir, capsys):
    photo = place / "photos/p1-1.png"
    error = wrong(capsys, "query", place / "i", photo, f"--model={other_model}")
    assert "was made by another model" in error
    assert str(workdir) in error and str(other_model) in error
    error = wrong(capsys, "build", place / "i", workdir, place / "photos", "--image-size=64")
    assert "image_size: the index has 32, this command 64" in error


def test_what_a_command_line_lacks_is_said(place, workdir, capsys):
    index, photo = place / "i", place / "photos/p1-1.png"
    assert "some\nminutes" in wrong(capsys, "build", place / "n")
    assert "exclude each other" in wrong(
        capsys, "build", place / "n", workdir, place / "photos", "--from=x"
    )
    assert "either photos or --row" in wrong(capsys, "query", index)
    assert "either photos or --row" in wrong(capsys, "query", index, photo, "--row=p1-1.png")
    assert "must end with .jsonl" in wrong(capsys, "query", index, photo, "--out=x.gif")
    assert "--box='1,2': expected" in wrong(capsys, "query", index, photo, "--box=1,2")
    assert "is not inside of the photo" in wrong(capsys, "query", index, photo, "--box=0,0,49,9")
    assert "did you mean 'p1-1.png'" in wrong(capsys, "query", index, "--row=p1-1.pn")
    assert "no column 'skv'; did you mean 'sku'" in wrong(
        capsys, "query", index, photo, "--group=skv"
    )
    assert "either their names or --where" in wrong(capsys, "remove", index)
    assert "is not an index" in wrong(capsys, "query", place / "photos", photo)
    assert "is no index; choose another" in wrong(
        capsys, "build", place / "photos", workdir, place / "photos"
    )
    assert not (place / "n").exists()
