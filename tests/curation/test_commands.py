"""The commands of `dino-jax curate` on a small made pool, as a user starts them."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from dino_jax.__main__ import main
from dino_jax.curation.pool import Pool
from dino_jax.data.sources import ListSource, build_source
from dino_jax.embedding.shards import Rows, Shards
from tests.curation.made_pool import COPIES, FEW, MANY, embed_pool, files_of, write_pool


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("curation")
    embed_pool(write_pool(folder / "pool"), folder / "embedded")
    embed_pool(folder / "pool/spots", folder / "spots")
    curate("filter", f"{folder}/embedded", f"--out={folder}/filtered")
    deduplicate = ("deduplicate", f"{folder}/embedded", f"--of={folder}/filtered")
    curate(*deduplicate, f"--out={folder}/unique", "--threshold=0.98")
    cluster = ("cluster", f"{folder}/embedded", f"--of={folder}/unique", "--clusters", "12", "3")
    curate(*cluster, f"--out={folder}/tree", "--samples", "1", "3", "--rounds=2")
    return folder


def curate(*arguments):
    assert main(["curate", *arguments]) == 0


def fails(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["curate", *arguments])
    assert stopped.value.code == 2
    return capsys.readouterr().err


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def report(folder):
    return json.loads((folder / "report.json").read_text())


def test_the_filter_says_what_is_wrong_with_each_image(root):
    removed = {line["name"]: line["reason"] for line in table(root / "filtered/removed.csv")}
    assert removed == {
        "junk/gray.png": "small entropy",
        "junk/tiny.png": "small short side",
        "junk/blurred.png": "small detail",
    }  # broken.png has no row
    assert report(root / "filtered")["kept"] == MANY + FEW + COPIES


def test_near_copies_go_and_their_partner_stays(root):
    removed = table(root / "unique/removed.csv")
    copies = [line for line in removed if "copy" in line["name"]]
    assert len(copies) == COPIES
    for line in copies:
        assert line["partner"] == line["name"].replace("copy_", "")
        assert float(line["similarity"]) > 0.98 and line["reason"] == "near-copy"
    kept = {line["name"] for line in table(root / "unique/kept.csv")}
    assert not kept & {line["name"] for line in removed}
    assert len(kept) + len(removed) == MANY + FEW + COPIES


def test_the_recall_is_measured_and_printed(root, capsys, tmp_path):
    line = [
        "deduplicate",
        f"{root}/embedded",
        "--threshold=0.8",
        "--cells=8",
        f"--out={tmp_path}/x",
    ]
    curate(*line)
    said = capsys.readouterr().out
    found = report(tmp_path / "x")
    assert f"recall: {found['recall']:.4f} of {found['recall_pairs']:,} near-copies" in said
    assert found["recall"] >= 0.99 and found["recall_pairs"] > 2 * COPIES
    # Against all pairs in plain NumPy.
    pool = Pool(f"{root}/embedded")
    rows = pool.gather(pool.rows).astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows /= np.where(lengths > 0, lengths, 1)
    similar = rows @ rows.T - 2 * np.eye(len(rows))
    assert found["recall_pairs"] == (np.sort(similar)[:, -64:] > 0.8).sum()


def test_the_default_cells_of_a_larger_pool_find_enough(tmp_path, capsys):
    rng = np.random.default_rng(0)
    topics = 2 * rng.standard_normal((50, 32))
    rows = rng.standard_normal((6000, 32)) + topics[np.arange(6000) % 50]
    rows[::3] = rows[1::3] + 0.5 * rng.standard_normal((2000, 32))
    (tmp_path / "embedded").mkdir()
    shards = Shards(str(tmp_path / "embedded"), 2, "npy")
    for shard, some in enumerate(np.split(rows.astype(np.float32), 2)):
        names = [f"{shard}/{index}" for index in range(len(some))]
        shards.write(shard, Rows(some, names, [None] * len(some), []))
    plan = {"tokens": "cls", "shard_images": 3000, "source.kind": "tar", "source.path": "no"}
    (tmp_path / "embedded/embed.json").write_text(json.dumps(plan))
    curate("deduplicate", f"{tmp_path}/embedded", "--threshold=0.9", f"--out={tmp_path}/x")
    found = report(tmp_path / "x")
    assert found["cells"] == 77 and found["recall_pairs"] > 500
    assert found["recall"] >= 0.99
    assert "neither kept.txt nor a sheet is written" in capsys.readouterr().err
    assert not (tmp_path / "x/kept.txt").exists() and (tmp_path / "x/kept.csv").exists()


def test_one_cell_of_each_image_loses_near_copies_and_says_so(root, tmp_path, capsys):
    line = ["deduplicate", f"{root}/embedded", "--threshold=0.6", "--cells=30", "--probes=1"]
    curate(*line, f"--out={tmp_path}/x")
    assert report(tmp_path / "x")["recall"] < 0.99
    assert "the recall is below --recall=0.99" in capsys.readouterr().out


def test_nothing_like_an_evaluation_image_is_kept(root, tmp_path):
    line = ["deduplicate", f"{root}/embedded", f"--against={root}/spots", "--threshold=0.98"]
    curate(*line, "--against-threshold=0.999", f"--out={tmp_path}/x")
    removed = {line["name"]: line for line in table(tmp_path / "x/removed.csv")}
    for number in range(FEW):
        one = removed[f"spots/{number:03}.png"]
        assert (one["reason"], one["partner"]) == ("like an evaluation image", f"{number:03}.png")


def test_the_sheet_shows_the_largest_clusters_and_the_table_all(root):
    lines = table(root / "tree/clusters.csv")
    assert [line["level"] for line in lines] == ["1"] * 12 + ["2"] * 3
    images = sum(int(line["images"]) for line in lines if line["level"] == "2")
    assert images == report(root / "tree")["images"] == len(table(root / "unique/kept.csv"))
    assert (root / "tree/sheet.png").read_bytes().startswith(b"\x89PNG")


def test_devices_make_the_same_tree(root, tmp_path):
    line = ["cluster", f"{root}/embedded", f"--of={root}/unique", "--clusters", "12", "3"]
    curate(*line, "--samples", "1", "3", "--rounds=2", "--compute=jax", f"--out={tmp_path}/x")
    assert files_of(tmp_path / "x") == files_of(root / "tree")


@pytest.mark.parametrize("images", [1, 2, 5])
def test_more_clusters_than_images_and_one_image_work(root, tmp_path, images):
    kept = np.stack([np.arange(images), np.ones(images, int)], axis=1)
    (tmp_path / "few").mkdir()
    np.save(tmp_path / "few/kept.npy", kept)
    line = ["cluster", f"{root}/embedded", f"--of={tmp_path}/few", f"--out={tmp_path}/tree"]
    curate(*line, "--clusters", "9", "7", "--samples", "3", "3", "--rounds=2")
    curate("sample", f"{tmp_path}/tree", f"--out={tmp_path}/even", "--target=3")
    assert report(tmp_path / "even")["taken"] == min(3, images)
    line = ["deduplicate", f"{root}/embedded", f"--of={tmp_path}/few", f"--out={tmp_path}/unique"]
    curate(*line, "--threshold=0.999")
    assert report(tmp_path / "unique")["kept"] == images


def test_an_even_sample_evens_the_distribution(root, tmp_path):
    curate("sample", f"{root}/tree", f"--out={tmp_path}/even", "--target=45")
    curate("balance", f"{root}/tree", f"--out={tmp_path}/capped", "--cap=4")
    top = report(tmp_path / "even")["levels"][1]
    assert top["entropy_bits_after"] > top["entropy_bits_before"]
    assert report(tmp_path / "even")["taken"] == 45
    low = report(tmp_path / "capped")["levels"][0]
    assert low["entropy_bits_after"] > low["entropy_bits_before"]
    assert report(tmp_path / "capped")["kept"] <= 4 * 12


def test_an_image_may_be_taken_more_than_once(root, tmp_path):
    target = f"--target={2 * MANY + 2 * FEW}"
    curate("sample", f"{root}/tree", f"--out={tmp_path}/x", target, "--multiplier=3")
    times = [int(line["times"]) for line in table(tmp_path / "x/kept.csv")]
    assert sum(times) == 2 * MANY + 2 * FEW and 1 < max(times) <= 3
    paths = (tmp_path / "x/kept.txt").read_text().splitlines()
    assert len(paths) == sum(times)


def test_lists_are_what_sources_read(root, tmp_path):
    curate("sample", f"{root}/tree", f"--out={tmp_path}/x", "--target=30")
    listed = ListSource(tmp_path / "x/kept.txt")
    parts = {"pool": {"kind": "folder", "path": f"{root}/pool"}}
    place = str(tmp_path / "x/kept.csv")
    chosen = build_source({"kind": "chosen", "path": place, "sources": parts})
    assert len(listed) == len(chosen) == 30
    for index in range(30):
        assert listed[index]["image"] == chosen[index]["image"]
        names = [one.class_names[one[index]["label"]] for one in (listed, chosen)]
        assert names[0] == names[1]


def test_retrieval_finds_the_seeds_themselves_first(root, tmp_path):
    line = ["retrieve", f"{root}/embedded", f"--seeds={root}/spots", "--nearest=2"]
    curate(*line, f"--out={tmp_path}/x")
    found = table(tmp_path / "x/retrieved.csv")
    assert len(found) == 2 * FEW
    assert all(one["name"] == f"spots/{one['seed']}" for one in found[::2])
    assert all(float(one["similarity"]) == 1 for one in found[::2])


def test_retrieval_by_clusters_takes_from_those_that_hold_seeds(root, tmp_path):
    line = ["retrieve", f"{root}/embedded", f"--of={root}/unique", f"--seeds={root}/spots"]
    curate(*line, f"--tree={root}/tree", "--above=1", f"--out={tmp_path}/x", "--per-cluster=3")
    assert 0 < report(tmp_path / "x")["kept"] <= 36


def test_a_finished_step_is_left_alone_and_another_one_is_refused(root, capsys):
    before = files_of(root / "tree")
    line = ["cluster", f"{root}/embedded", f"--of={root}/unique", f"--out={root}/tree"]
    curate(*line, "--clusters", "12", "3", "--samples", "1", "3", "--rounds=2")
    assert "is already complete" in capsys.readouterr().out
    assert "clusters" in fails(capsys, *line, "--clusters", "11", "3")
    assert files_of(root / "tree") == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cluster", "{}/embedded", "--clusters", "3", "12"], "each level must be smaller"),
        (
            ["cluster", "{}/embedded", "--samples", "3", "2"],
            "--samples has 2 numbers",
        ),
        (["cluster", "{}/pool"], "EMBEDDED={}/pool is no folder of dino-jax embed"),
        (["cluster", "{}/embedded", "--of={}/pool"], "kept.npy"),
        (["sample", "{}/unique", "--target=3"], "TREE={}/unique is no tree"),
        (["sample", "{}/pool", "--target=3"], "TREE={}/pool is no folder of dino-jax curate"),
        (["balance", "{}/tree", "--cap=3", "--level=3"], "has 2 levels"),
        (
            ["retrieve", "{}/embedded", "--seeds={}/spots", "--tree={}/tree"],
            "retrieve from the same EMBEDDED",
        ),
        (["filter", "{}/embedded", "--min-side=99"], "none of 153 images would be kept"),
        (["sample", "{}/tree", "--target=3", "--runer=x"], "unexpected --runer=x"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(root, tmp_path, capsys, arguments, words):
    line = [word.format(root) for word in arguments]
    error = fails(capsys, *line, f"--out={tmp_path}/x")
    assert words.format(root) in error and error.startswith("error: ") and error.count("\n") == 1


def test_a_damaged_shard_is_named(root, tmp_path, capsys):
    folder = embed_pool(root / "pool", tmp_path / "embedded")
    shard = next(folder.glob("embeddings-00001*"))
    shard.write_bytes(shard.read_bytes()[:-7])
    error = fails(capsys, "cluster", str(folder), f"--out={tmp_path}/x")
    assert f"{shard} can't be read" in error


STARTED = {
    "filter": ["filter", "{}/embedded"],
    "deduplicate": ["deduplicate", "{}/embedded", "--threshold=0.9", "--cells=9"],
    "cluster": ["cluster", "{}/embedded", "--clusters", "9", "3", "--samples", "2", "2"],
    "sample": ["sample", "{}/tree", "--target=30"],
    "balance": ["balance", "{}/tree", "--cap=4"],
    "retrieve": ["retrieve", "{}/embedded", "--seeds={}/spots"],
}
# Ends the process, as kill -9 does, just before or after the Nth file is there.
KILLED = """
import os, signal, sys
from pathlib import Path
left, replace = int(sys.argv.pop(1)), Path.replace
def counted(self, target):
    global left
    left -= 1
    if left < 0: os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)
Path.replace = counted
from dino_jax.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("command", STARTED)
def test_a_command_that_was_killed_goes_on_to_the_same_bytes(root, tmp_path, command):
    line = ["curate", *[word.format(root) for word in STARTED[command]]]
    assert main([*line, f"--out={tmp_path}/whole"]) == 0
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    deaths = 0
    for files in (1, 4, 2, 9, 7):  # that each start may write
        start = [sys.executable, "-c", KILLED, str(files), *line, f"--out={tmp_path}/killed"]
        done = subprocess.run(start, env=environment, capture_output=True, text=True)
        deaths += done.returncode == -signal.SIGKILL
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert deaths
    assert main([*line, f"--out={tmp_path}/killed"]) == 0
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


def test_ctrl_c_leaves_what_is_done(root, tmp_path):
    line = ["curate", "cluster", f"{root}/embedded", "--clusters", "40", f"--out={tmp_path}/x"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    code = "import sys; from dino_jax.__main__ import main; sys.exit(main(sys.argv[1:]))"
    slow = "import time; from dino_jax.curation import kmeans as k, shard_kmeans as s\n" + (
        "means = k.means_of\ndef later(*x): time.sleep(0.3); return means(*x)\ns.means_of = later\n"
    )
    start = [sys.executable, "-c", slow + code, *line]
    process = subprocess.Popen(start, env=environment, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("x/steps/round-0-0001.npy")) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    error = process.communicate()[1]
    assert process.returncode == 130, error
    assert "the same command goes on" in error
    assert main(line) == 0
