"""The folder of an index: adding, removing, one writer, killed writers and flipped bytes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dino_jax.embedding.projection import Projection
from dino_jax.search.index import SAID_BYTES, open_index
from dino_jax.search.manifest import MANIFEST, DamagedIndexError
from dino_jax.search.segment import Row
from dino_jax.search.writer import writing
from tests.search.small_index import (
    DIM,
    change,
    make_index,
    manifest,
    names_at,
    require_generation,
    vector_of,
)

ROOT = Path(__file__).parents[2]
NAMES = [f"{i:02d}.jpg" for i in range(40)]


def test_rows_come_back_with_their_names_and_vectors(tmp_path):
    index = make_index(tmp_path / "i", NAMES)
    assert [(number, row.name) for number, row in index.rows()] == list(enumerate(NAMES))
    np.testing.assert_array_equal(index.vectors([3, 0]), [vector_of("03.jpg"), vector_of("00.jpg")])
    assert index.find("07.jpg") == 7 and index.row(7).name == "07.jpg"
    found = index.search(vector_of("11.jpg"), 3)
    assert found.rows[0] == 11 and abs(found.scores[0] - 1) < 1e-3


def test_random_adds_and_removes_leave_what_a_fresh_build_has(tmp_path):
    live: list[str] = []
    for generation in range(1, 24):
        with writing(tmp_path / "i", manifest()) as writer:
            live = change(writer, generation, live)
    index, fresh = open_index(tmp_path / "i"), make_index(tmp_path / "fresh", live)
    assert live == names_at(23) and len(index) == len(fresh) == len(live)
    for query in map(vector_of, ("a", "b", "c", live[0])):
        one, other = index.search(query, 9), fresh.search(query, 9)
        np.testing.assert_array_equal(one.scores, other.scores)
        found = [index.row(int(row)).name for row in one.rows]
        assert found == [fresh.row(int(row)).name for row in other.rows]


def test_removed_rows_are_not_found_and_compacting_drops_them(tmp_path):
    make_index(tmp_path / "i", NAMES, table={name: {"n": i} for i, name in enumerate(NAMES)})
    with writing(tmp_path / "i") as writer:
        writer.remove(range(30))
        writer.commit()
        assert writer.removed_share == 0.75
    index = open_index(tmp_path / "i")
    assert len(index) == 10 and index.search(vector_of("03.jpg"), 40).rows.min() == 30
    with writing(tmp_path / "i") as writer:
        writer.compact()
    compacted = open_index(tmp_path / "i")
    assert compacted.manifest.rows == 10 and compacted.column("n") == list(range(30, 40))
    assert len(list((tmp_path / "i").glob("segment-*"))) == 1
    assert not list((tmp_path / "i").glob("removed-*"))
    assert index.search(vector_of("35.jpg"), 1).rows == [35]  # a reader keeps what it has open


def test_a_second_writer_is_refused_with_process_and_host(tmp_path):
    make_index(tmp_path / "i", NAMES)
    code = (
        "import sys; from pathlib import Path; from dino_jax.search.writer import writing\n"
        "with writing(Path(sys.argv[1])):\n    pass"
    )
    with writing(tmp_path / "i"):
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path / "i"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 1
    assert f"process {os.getpid()} on {os.uname().nodename}" in done.stderr


def test_uncommitted_files_are_no_part_of_the_index_and_are_swept(tmp_path):
    make_index(tmp_path / "i", NAMES)
    with writing(tmp_path / "i") as writer:
        writer.add([(vector_of("new")[None], [Row("new")])])
    (tmp_path / "i/mine.txt").write_text("of the user")
    assert (tmp_path / "i/segment-000002").exists()
    assert len(open_index(tmp_path / "i")) == 40
    with writing(tmp_path / "i"):
        assert not (tmp_path / "i/segment-000002").exists()
    assert (tmp_path / "i/mine.txt").exists()


HISTORY = """
import sys
from pathlib import Path
from dino_jax.search.writer import writing
from tests.search.small_index import change, manifest, names_at
folder = Path(sys.argv[1])
print("ready", flush=True)
while True:
    with writing(folder, manifest()) as writer:
        live = names_at(writer.manifest.generation)
        for _ in range(7):
            live = change(writer, writer.manifest.generation + 1, live)
"""


def kill_at_random_moments(folder: Path, times: int, seed: int) -> list[int]:
    """The generations that were found after each kill of a process that writes all the time."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(times):
        writer = subprocess.Popen(
            [sys.executable, "-c", HISTORY, str(folder)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
        )
        assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
        time.sleep(float(rng.uniform(0.02, 0.8)))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        if (folder / MANIFEST).exists():
            found.append(require_generation(folder))
    return found


def test_a_killed_writer_leaves_the_index_before_or_after_a_commit(tmp_path):
    found = kill_at_random_moments(tmp_path / "i", 3, seed=0)
    assert found == sorted(found)
    with writing(tmp_path / "i", manifest()) as writer:
        generation = writer.manifest.generation
        change(writer, generation + 1, names_at(generation))
    assert require_generation(tmp_path / "i") == generation + 1


def rich_index(folder: Path) -> Path:
    """An index with all kinds of files."""
    make_index(folder, NAMES, table={name: {"price": 3} for name in NAMES})
    with writing(folder) as writer:
        writer.remove([4])
        writer.add([(vector_of("new")[None], [Row("new")])])
        writer.set_projection(Projection(np.zeros(3, np.float32), np.zeros((3, 2), np.float32)))
        writer.commit()
    return folder


def flip_bytes(folder: Path, times: int, seed: int) -> None:
    """Each flip of a byte of any file must be an error that names the file."""
    rng = np.random.default_rng(seed)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for _ in range(times):
        path = files[rng.integers(len(files))]
        data = path.read_bytes()
        place = int(rng.integers(len(data)))
        flipped = bytes([data[place] ^ int(rng.integers(1, 256))])
        path.write_bytes(data[:place] + flipped + data[place + 1 :])
        with pytest.raises(DamagedIndexError, match=path.name):
            open_index(folder)
        path.write_bytes(data)
    open_index(folder)


def test_a_flipped_byte_anywhere_is_an_error_that_names_the_file(tmp_path):
    flip_bytes(rich_index(tmp_path / "i"), 60, seed=1)


@pytest.mark.parametrize("name", ["segment-000001/codes.npy", "segment-000002/rows.jsonl"])
@pytest.mark.parametrize("how", ["cut", "grown", "gone"])
def test_a_file_of_another_size_is_named_even_unchecked(tmp_path, name, how):
    path = rich_index(tmp_path / "i") / name
    data = path.read_bytes()
    path.write_bytes(data[:-1] if how == "cut" else data + b"x")
    if how == "gone":
        path.unlink()
    with pytest.raises(DamagedIndexError, match=name):
        open_index(tmp_path / "i", checked=False)


def test_damage_is_never_copied_by_a_writer(tmp_path):
    path = rich_index(tmp_path / "i") / "segment-000001/vectors.npy"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(DamagedIndexError, match=r"vectors\.npy"), writing(tmp_path / "i"):
        pass


def test_the_time_of_checking_a_large_index_is_said(tmp_path, monkeypatch, capsys):
    rich_index(tmp_path / "i")
    assert SAID_BYTES == 1 << 30
    monkeypatch.setattr("dino_jax.search.index.SAID_BYTES", 100)
    open_index(tmp_path / "i")
    assert "against its checksums; --unchecked would" in capsys.readouterr().err
    open_index(tmp_path / "i", checked=False)
    assert capsys.readouterr().err == ""


def test_an_index_of_a_newer_version_is_told_from_a_damaged_one(tmp_path, monkeypatch):
    monkeypatch.setattr("dino_jax.search.manifest.VERSION", 3)
    make_index(tmp_path / "i", NAMES)
    monkeypatch.setattr("dino_jax.search.manifest.VERSION", 1)
    with pytest.raises(ValueError, match="has the format 3, this version reads 1 and 2"):
        open_index(tmp_path / "i")


def test_what_is_no_index_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"not an index .* dino-jax search build"):
        open_index(tmp_path)
    (tmp_path / MANIFEST).write_text(json.dumps({"version": 1}))
    with pytest.raises(DamagedIndexError, match=r"index\.json is damaged"):
        open_index(tmp_path)


def test_an_index_can_lose_all_of_its_rows(tmp_path):
    make_index(tmp_path / "i", NAMES)
    with writing(tmp_path / "i") as writer:
        writer.remove(range(40))
        writer.commit()
        writer.compact()
    index = open_index(tmp_path / "i")
    assert len(index) == 0 and index.search(np.ones(DIM), 5).rows.size == 0
