"""Lists of faiss: used when asked for, with the recall that was measured in every answer."""

import json
import shutil
import sys

import numpy as np
import pytest

from dino_jax.search.codes import unit_rows
from dino_jax.search.index import open_index
from dino_jax.search.lists import share_found
from dino_jax.search.manifest import DamagedIndexError
from dino_jax.search.segment import Row
from dino_jax.search.writer import writing
from tests.search.photos import run
from tests.search.small_index import make_index, manifest
from tests.search.vectors import gauss

ROWS, DIM = 2000, 24


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    pytest.importorskip("faiss", reason="faiss is not installed")
    folder = tmp_path_factory.mktemp("lists") / "i"
    rows = [Row(f"{number:04d}", "odd" if number % 2 else "even") for number in range(ROWS)]
    with writing(folder, manifest(DIM)) as writer:
        writer.add([(unit_rows(gauss(ROWS, DIM, 0)), rows)])
        writer.remove([7])
        writer.commit()
    assert run("approximate", folder, "--lists=32", "--recall=0.9") == 0
    return folder


def test_the_recall_in_the_manifest_is_that_of_other_queries_too(made):
    index, exact = open_index(made, approximate=True), open_index(made)
    entry = index.manifest.approximate
    assert entry and entry.recall >= 0.9 and entry.rows == ROWS and entry.queries == 200
    assert 1 < entry.probes < 32
    queries = gauss(300, DIM, 1)
    found = [index.search(query, 10) for query in queries]
    true = [exact.search(query, 10) for query in queries]
    recall = share_found([one.rows for one in true], [one.rows for one in found])
    # A query finds a share in [0, 1], whose deviation is at most 0.5: four of those of both means.
    assert recall == pytest.approx(entry.recall, abs=4 * 0.5 * np.sqrt(1 / 200 + 1 / 300))
    assert recall < 1 and not any(one.proven for one in found)
    assert {one.recall for one in found} == {entry.recall}
    assert all(one.proven and one.recall == 1 for one in true)
    for one, other in zip(found, true, strict=True):  # scores are those of the exact search
        scores = dict(zip(other.rows.tolist(), other.scores.tolist(), strict=True))
        same = [row for row in one.rows.tolist() if row in scores]
        assert [scores[row] for row in same] == [
            one.scores[one.rows.tolist().index(row)] for row in same
        ]


def test_removed_rows_and_rows_that_came_later(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "i")
    vector = open_index(made).vector(7)
    assert 7 not in open_index(folder, approximate=True).search(vector, 50).rows
    with writing(folder) as writer:
        writer.remove([8])
        writer.add([(vector[None], [Row("new")])])
        writer.commit()
    index = open_index(folder, approximate=True)
    found = index.search(vector, 5)
    assert found.rows[0] == ROWS and found.scores[0] == pytest.approx(1, abs=1e-6)
    assert 8 not in index.search(index.vector(8), 50).rows
    with writing(folder) as writer:
        writer.compact()
    assert not list(folder.glob("approximate-*"))
    with pytest.raises(ValueError, match=r"has no lists .* dino-jax search approximate"):
        open_index(folder, approximate=True)


def test_a_filter_is_searched_exactly(made):
    index = open_index(made, approximate=True)
    allowed = (np.arange(ROWS) % 2).astype(np.uint8)
    query = gauss(1, DIM, 2)[0]
    found, wanted = (one.search(query, 10, allowed) for one in (index, open_index(made)))
    assert found.proven and found.rows.tolist() == wanted.rows.tolist()


def test_every_answer_of_the_command_has_the_recall(made, tmp_path, capsys):
    out = tmp_path / "hits.jsonl"
    assert run("query", made, "--row=0011", "--approximate", f"--out={out}") == 0
    recall = open_index(made).manifest.approximate.recall
    for line in out.read_text().splitlines():
        hit = json.loads(line)
        assert not hit["proven"] and hit["recall"] == recall
    assert run("query", made, "--row=0011", "--approximate") == 0
    assert f"approximate, recall {recall:.4f}, over" in capsys.readouterr().out
    assert run("query", made, "--row=0011") == 0
    assert "exact, proven, over" in capsys.readouterr().out


def test_a_damaged_file_is_never_given_to_faiss(made, tmp_path, monkeypatch):
    folder = shutil.copytree(made, tmp_path / "i")
    (path,) = folder.glob("approximate-*.faiss")
    data = path.read_bytes()
    monkeypatch.setattr("faiss.read_index", None)
    for place in np.random.default_rng(0).integers(len(data), size=20):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        for checked in (True, False):
            with pytest.raises(DamagedIndexError, match=path.name):
                open_index(folder, checked, approximate=True)


def test_too_few_photos_for_lists_and_no_faiss_are_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    make_index(tmp_path / "i", ["a", "b"])
    with pytest.raises(SystemExit):
        run("approximate", tmp_path / "i")
    assert "pip install 'dino_jax[faiss]'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="has no lists"):
        open_index(tmp_path / "i", approximate=True)
