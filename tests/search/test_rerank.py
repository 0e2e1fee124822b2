"""Hits once more, by the patches of their photographs."""

import json

import numpy as np
import pytest

from dino_jax.search.desk import Desk
from dino_jax.search.index import open_index
from dino_jax.search.photos import Photos
from dino_jax.visualize.sheets import patch_features
from dino_jax.weights.model import load
from tests.saved_model import save_tiny_vit
from tests.search.photos import run, save_photos


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rerank")
    (folder / "run").mkdir()
    save_tiny_vit(folder / "run", width=24)
    save_photos(folder / "photos")
    assert run("build", folder / "i", folder / "run", folder / "photos", "--batch-size=8") == 0
    return folder


def patches(model, place, name: str) -> np.ndarray:
    """[P, D] of length 1, in float64."""
    pixels = Photos(str(place / "photos")).read(name)
    found = patch_features(model, model.view(pixels, 32)).reshape(-1, 24).astype(np.float64)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def ask(place, *options) -> list[dict]:
    out = place / "hits.jsonl"
    photo = place / "photos/p3-1.png"
    assert run("query", place / "i", photo, *options, f"--out={out}") == 0
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_candidates_are_ordered_by_the_mean_best_cosine_of_patches(place):
    plain, again = ask(place, "-k", 12), ask(place, "-k", 5, "--rerank=12")
    model = load(place / "run")
    query = patches(model, place, "p3-1.png")
    scores = {
        hit["name"]: (query @ patches(model, place, hit["name"]).T).max(axis=1).mean()
        for hit in plain
    }
    wanted = sorted(scores.values(), reverse=True)[:5]
    np.testing.assert_allclose([hit["score"] for hit in again], wanted, atol=1e-5)
    for rank, hit in enumerate(again, start=1):
        assert hit["rank"] == rank and abs(scores[hit["name"]] - hit["score"]) < 1e-5
    assert again[0]["name"] == "p3-1.png" and abs(again[0]["score"] - 1) < 1e-5


def test_only_candidates_are_looked_at(place):
    nearest = {hit["name"] for hit in ask(place, "-k", 3)}
    assert {hit["name"] for hit in ask(place, "-k", 10, "--rerank=3")} == nearest


def test_what_cannot_be_read_is_last_and_counted(place, capsys):
    names = [hit["name"] for hit in ask(place, "-k", 4)]
    hidden = place / "photos" / names[2]
    moved = hidden.rename(place / "hidden.png")
    try:
        capsys.readouterr()
        photo = place / "photos/p3-1.png"
        assert run("query", place / "i", photo, "-k", 4, "--rerank=4") == 0
        lines = capsys.readouterr().out.splitlines()
    finally:
        moved.rename(hidden)
    assert names[2] in lines[4] and "-1.0000" in lines[4]
    assert "the 4 nearest were compared patch by patch" in lines[5]
    assert "1 of these can't be read" in lines[5]


def test_the_page_answers_as_the_command(place):
    index = open_index(place / "i")
    photos = Photos(str(place / "photos"))
    desk = Desk(index, load(place / "run"), photos, 10**8, rerank=12)
    data = (place / "photos/p3-1.png").read_bytes()
    wanted = ask(place, "-k", 5, "--rerank=12")
    found = desk.search_upload([data], {"k": "5"})["hits"]
    assert [hit["row"] for hit in found] == [hit["row"] for hit in wanted]
    row = index.find("p3-1.png")
    assert run("query", place / "i", "--row=p3-1.png", "-k", 5, "--rerank=12") == 0
    hits = desk.search_row(row, {"k": "5"})["hits"]
    assert row not in [hit["row"] for hit in hits] and len(hits) == 5
    assert hits[0]["row"] == wanted[1]["row"]
