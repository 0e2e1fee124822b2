"""Two models in one index: weights, texts, both together, and the sweep."""

import functools
import http.client
import json
import threading
from urllib.parse import urlencode

import numpy as np
import pytest

pytest.importorskip("tokenizers")

from dino_jax.__main__ import main
from dino_jax.search import texts
from dino_jax.search.codes import encode, unit_rows
from dino_jax.search.desk import Desk
from dino_jax.search.engine import Part, search
from dino_jax.search.index import open_index
from dino_jax.search.manifest import read_manifest, require_one_model
from dino_jax.search.mixture import join, split, weigh, weigh_alone
from dino_jax.search.photos import Photos
from dino_jax.search.server import Server
from dino_jax.search.texts import TextEmbedder
from dino_jax.weights.import_weights import main as import_weights
from dino_jax.weights.model import load
from dino_jax.weights.text_model import load_text
from tests.saved_model import save_tiny_vit
from tests.search.photos import run, save_photo, save_photos, save_table
from tests.weights.clip_files import write_folder

TEXT = "a red chair"


@pytest.fixture(scope="module", autouse=True)
def loaded_once():
    with pytest.MonkeyPatch.context() as patch:
        once = functools.cache(load)
        for module in ("build", "origin", "second"):
            patch.setattr(f"dino_jax.search.{module}.load", once)
        patch.setattr(texts, "load_text", functools.cache(load_text))
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """photos/, models dino/ and clip/, and indexes of both (i), and of each (d, c)."""
    folder = tmp_path_factory.mktemp("several")
    (folder / "dino").mkdir()
    dino = save_tiny_vit(folder / "dino", width=24)
    weights = write_folder(folder / "downloaded", "clip")
    assert import_weights([str(weights), f"--out={folder / 'clip'}"]) == 0
    table = save_table(folder / "table.csv", save_photos(folder / "photos"))
    options = (f"--metadata={table}", "--batch-size=8")
    both = (dino, folder / "photos", f"--other={folder / 'clip'}")
    assert run("build", folder / "i", *both, *options) == 0
    assert run("build", folder / "d", dino, folder / "photos", *options) == 0
    assert run("build", folder / "c", folder / "clip", folder / "photos", *options) == 0
    return folder


def fail(*arguments: object) -> None:
    with pytest.raises(SystemExit) as ended:
        run(*arguments)
    assert ended.value.code == 2


def ask(place, capsys, *options: object, index="i") -> dict[str, float]:
    """Scores by name."""
    capsys.readouterr()
    out = place / "hits.jsonl"
    assert run("query", place / index, *options, "-k50", f"--out={out}") == 0
    hits = [json.loads(line) for line in out.read_text().splitlines()]
    scores = [hit["score"] for hit in hits]
    assert all(hit["proven"] for hit in hits) and scores == sorted(scores, reverse=True)
    return {hit["name"]: hit["score"] for hit in hits}


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 1.0])
def test_scores_are_cosines_of_the_weighed_concatenation(weight):
    rng = np.random.default_rng(0)
    d, c = rng.normal(size=(200, 12)), rng.normal(size=(200, 7))
    rows = unit_rows(join([d, c]).astype(np.float32))
    query = weigh([d[5] * 3, c[9] / 2], weight)
    found = search([Part(rows, encode(rows))], query.vector, 200)
    one = np.concatenate(
        [
            np.sqrt(weight) * d.T / np.linalg.norm(d, axis=1),
            np.sqrt(1 - weight) * c.T / np.linalg.norm(c, axis=1),
        ]
    ).T
    other = np.concatenate(
        [
            np.sqrt(weight) * d[5] / np.linalg.norm(d[5]),
            np.sqrt(1 - weight) * c[9] / np.linalg.norm(c[9]),
        ]
    )
    cosines = one @ other  # both have length 1
    np.testing.assert_allclose(found.scores * query.scale, cosines[found.rows], atol=1e-3)
    assert np.diff(cosines[found.rows]).max() < 1e-3


def test_rows_are_split_into_what_was_joined():
    rng = np.random.default_rng(1)
    d, c = rng.normal(size=(4, 5)), rng.normal(size=(4, 3))
    first, second = split(join([d, c]), (5, 3))
    np.testing.assert_allclose(first, d / np.linalg.norm(d, axis=1, keepdims=True))
    np.testing.assert_allclose(second, c / np.linalg.norm(c, axis=1, keepdims=True))


def test_one_model_is_stored_and_asked_as_before(place):
    assert json.loads((place / "d" / "index.json").read_text())["version"] == 1
    assert json.loads((place / "i" / "index.json").read_text())["version"] == 2
    vector = np.arange(3.0)
    assert weigh([vector]).vector is vector and weigh_alone(vector, 0, (3,)).scale == 1


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_a_query_weighs_the_scores_of_both_models(place, capsys, weight):
    photo = place / "photos" / "p1-0.png"
    scores = ask(place, capsys, photo, f"--weight={weight}")
    alone = [ask(place, capsys, photo, index=index) for index in "dc"]
    expected = {name: weight * alone[0][name] + (1 - weight) * alone[1][name] for name in scores}
    assert scores == pytest.approx(expected, abs=2e-3)
    by_row = ask(place, capsys, "--row=p1-0.png", f"--weight={weight}")
    assert by_row == pytest.approx({x: y for x, y in scores.items() if x != "p1-0.png"}, abs=2e-3)


def image_text(place):
    """Cosines of all photos with the text, without an index."""
    model = load(place / "clip")
    files = sorted((place / "photos").iterdir())
    vectors = np.asarray(model([str(file) for file in files])["cls"])
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ load_text(place / "clip")([TEXT])[0]
    return dict(zip([file.name for file in files], cosines.tolist(), strict=True))


@pytest.mark.parametrize("index", ["i", "c"])
def test_a_text_is_answered_by_the_model_that_reads_it(place, capsys, index):
    scores = ask(place, capsys, f"--text={TEXT}", index=index)
    assert scores == pytest.approx(image_text(place), abs=2e-3)
    assert run("query", place / index, "--text", TEXT, "the lamp") == 0
    said = capsys.readouterr().out
    assert "score" in said and "the order counts" in said


def test_a_text_beside_a_photo_is_weighed_by_standardised_scores(place, capsys):
    photo, text = ask(place, capsys, "--row=p1-0.png"), image_text(place)
    fused = ask(place, capsys, "--row=p1-0.png", f"--text={TEXT}", "--text-weight=0.25")
    photo["p1-0.png"] = 1.0  # the query itself is no answer, but one of the rows
    names = sorted(photo)
    a, b = (np.array([scores[name] for name in names]) for scores in (photo, text))
    z = 0.75 * (a - a.mean()) / a.std() + 0.25 * (b - b.mean()) / b.std()
    expected = dict(zip(names, z.tolist(), strict=True))
    assert fused == pytest.approx({name: expected[name] for name in fused}, abs=2e-2)


def test_an_update_embeds_new_photos_by_both(place, tmp_path, capsys):
    photos = tmp_path / "photos"
    save_photo(photos / "p0-0.png", 0, 0)
    models = (place / "dino", photos, f"--other={place / 'clip'}")
    assert run("build", tmp_path / "i", *models, "--batch-size=8") == 0
    save_photo(photos / "p1-0.png", 1, 0)
    assert run("update", tmp_path / "i", "--batch-size=8") == 0
    assert "1 new" in capsys.readouterr().out
    new, whole = open_index(tmp_path / "i"), open_index(place / "i")
    vector = whole.vector(whole.find("p1-0.png"))
    np.testing.assert_allclose(new.vector(new.find("p1-0.png")), vector, atol=2e-3)
    other = (place / "clip", photos, f"--other={place / 'dino'}")
    fail("build", tmp_path / "i", *other, "--batch-size=8")
    assert "is an index already, and another one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("index", "options", "message"),
    [
        ("d", ["--row=p0-0.png", "--weight=0.2"], "--weight=0.2 is between two models"),
        ("d", ["--text=chair"], "read no texts; build an index with an imported CLIP"),
        ("d", ["p.png", "--other=x"], "has one model"),
        ("i", [], "what is looked for?"),
        ("i", ["--text=chair", "--views", "mirrored"], "are for photos"),
        ("i", ["--text=chair", "--other={dino}"], "which read no texts"),
        ("i", ["--text=chair", "--other={other}"], "was made by another model"),
    ],
)
def test_what_cannot_be_asked_is_said(place, tmp_path, capsys, index, options, message):
    save_photo(tmp_path / "p.png", 0, 0)
    if any("{other}" in option for option in options):
        weights = write_folder(tmp_path / "downloaded", "clip_old")
        assert import_weights([str(weights), f"--out={tmp_path / 'other'}"]) == 0
    named = {"dino": place / "dino", "other": tmp_path / "other"}
    texts = [
        option.format(**named).replace("p.png", str(tmp_path / "p.png"))
        if option == "p.png" or "{" in option
        else option
        for option in options
    ]
    fail("query", place / index, *texts)
    assert message in capsys.readouterr().err


def test_reduced_vectors_and_texts_cannot_be_compared(place, tmp_path, capsys):
    options = ("--reduce=random", "--dim=6", "--batch-size=8")
    assert run("build", tmp_path / "i", place / "clip", place / "photos", *options) == 0
    fail("query", tmp_path / "i", "--text=chair")
    assert "reduced: texts lie beside" in capsys.readouterr().err
    fail("build", tmp_path / "j", "--from=x", "--other=y")
    assert "needs --other-from=EMBEDDED" in capsys.readouterr().err


def test_the_sweep_says_which_weight_is_best(place, tmp_path, capsys):
    out = tmp_path / "out.json"
    options = ("--label=sku", "--resamples=200", f"--out={out}")
    assert run("evaluate", place / "i", *options) == 0
    said = capsys.readouterr().out
    assert "<- best" in said and "best in 95 % of draws" in said
    weights = json.loads(out.read_text())["weights"]
    assert [float(x) for x in weights["means"]] == pytest.approx(np.arange(11) / 10)
    for weight, index in (("1.0", "d"), ("0.0", "c")):
        alone = tmp_path / f"{index}.json"
        assert run("evaluate", place / index, "--label=sku", f"--out={alone}") == 0
        expected = json.loads(alone.read_text())["means"]
        assert weights["means"][weight] == pytest.approx(expected, abs=0.02)
    best = weights["means"][str(weights["best"])]["recall@1"]
    assert best == max(means["recall@1"] for means in weights["means"].values())
    assert weights["range"][0] <= weights["best"] <= weights["range"][1]
    assert run("evaluate", place / "i", "--label=sku", "--weight=0.2") == 0
    said = capsys.readouterr().out
    assert "weight 0.2" in said and "<- best" not in said


@pytest.fixture(scope="module")
def desk(place):
    index = open_index(place / "i")
    reader = TextEmbedder(index.manifest, index.folder)
    photos = Photos(str(place / "photos"))
    others = (load(place / "clip"),)
    return Desk(index, load(place / "dino"), photos, 10**8, others, reader)


def test_the_page_takes_words_weights_and_both(place, desk, capsys):
    assert desk.info()["texts"] and desk.info()["models"] == 2
    hits = desk.search_text({"text": TEXT, "k": "50"})["hits"]
    assert {hit["name"]: hit["score"] for hit in hits} == pytest.approx(image_text(place), abs=2e-3)
    row = open_index(place / "i").find("p1-0.png")
    for weight in ("0", "0.5", "1"):
        found = desk.search_row(row, {"weight": weight, "k": "50"})["hits"]
        expected = ask(place, capsys, "--row=p1-0.png", f"--weight={weight}")
        assert {hit["name"]: hit["score"] for hit in found} == pytest.approx(expected)
    data = (place / "photos" / "p1-0.png").read_bytes()
    one = desk.search_upload([data], {"text": TEXT, "k": "3"})["hits"]
    other = ask(place, capsys, place / "photos" / "p1-0.png", f"--text={TEXT}")
    assert [hit["name"] for hit in one] == list(other)[:3]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"text": " "}, "1 to 1,000 characters"),
        ({"text": "x" * 1001}, "1 to 1,000 characters"),
        ({"text": "\ud800"}, "not a text"),
    ],
)
def test_words_that_are_none_are_refused(desk, asked, message):
    with pytest.raises(ValueError, match=message):
        desk.search_text(asked)


@pytest.mark.parametrize("weight", ["2", "-0.1", "nan", "x", ""])
def test_weights_that_are_none_are_refused(desk, weight):
    with pytest.raises(ValueError, match="weight is a number from 0 to 1"):
        desk.search_row(0, {"weight": weight})


def test_a_page_without_such_a_model_has_no_words(place):
    index = open_index(place / "d")
    plain = Desk(index, load(place / "dino"), Photos(str(place / "photos")), 10**8)
    assert not plain.info()["texts"]
    with pytest.raises(ValueError, match="no model that reads texts"):
        plain.search_text({"text": "chair"})


def test_an_adapter_is_for_the_vectors_of_one_model(place):
    require_one_model(read_manifest(place / "d"), place / "d")
    with pytest.raises(ValueError, match="the vectors of 2 models"):
        require_one_model(read_manifest(place / "i"), place / "i")


def test_vectors_that_embed_has_made_are_put_side_by_side(place, tmp_path, capsys):
    for name in ("dino", "clip"):
        out = (f"--out={tmp_path / name}", "--batch-size=8", "--shard-images=7")
        assert main(["embed", str(place / name), str(place / "photos"), *out]) == 0
    source = (f"--from={tmp_path / 'dino'}", f"--other-from={tmp_path / 'clip'}")
    models = (place / "dino", f"--other={place / 'clip'}")
    assert run("build", tmp_path / "i", *models, *source) == 0
    new, whole = open_index(tmp_path / "i"), open_index(place / "i")
    assert len(new) == len(whole) and new.manifest.origins == whole.manifest.origins
    for name in ("p0-0.png", "p5-2.png"):
        vectors = [index.vector(index.find(name)) for index in (new, whole)]
        np.testing.assert_allclose(*vectors, atol=2e-3)
    assert set(ask(tmp_path, capsys, f"--text={TEXT}")) == {row.name for _, row in whole.rows()}
    out = (f"--out={tmp_path / 'eight'}", "--batch-size=8", "--shard-images=8")
    assert main(["embed", str(place / "clip"), str(place / "photos"), *out]) == 0
    capsys.readouterr()
    odd = (f"--from={tmp_path / 'dino'}", f"--other-from={tmp_path / 'eight'}")
    fail("build", tmp_path / "j", *odd)
    assert "hold other photos, or in another order: 8 and 7" in capsys.readouterr().err
    assert not (tmp_path / "j" / "index.json").exists()
    fail("build", tmp_path / "j", *models, *source[:1], f"--other-from={tmp_path / 'dino'}")
    assert "was made by" in capsys.readouterr().err


def test_words_come_over_http_by_the_rules_of_the_page(place, desk):
    with Server("127.0.0.1", 0, desk) as page:
        threading.Thread(target=page.serve_forever, daemon=True).start()
        asked = urlencode({"text": TEXT, "k": 3})

        def answer(path: str, **headers: str) -> tuple[int, dict]:
            connection = http.client.HTTPConnection("127.0.0.1", page.server_port, timeout=60)
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())

        status, found = answer(f"/words?{asked}")
        assert status == 200 and len(found["hits"]) == 3 and found["proven"]
        assert answer("/words")[0] == answer("/words?text=" + "x" * 1001)[0] == 400
        assert answer(f"/words?{asked}", Origin="http://evil.example")[0] == 403
        assert answer(f"/words?{asked}", Host="evil.example")[0] == 403
        page.shutdown()
