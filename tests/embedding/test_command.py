"""Vectors of all images, whatever the batches, shards and processes."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dino_jax
from configs import digits_resnet
from dino_jax.commands.signals import Stopped
from dino_jax.embedding.__main__ import main
from dino_jax.embedding.shards import Shards
from tests.run_train import run_processes
from tests.saved_model import save_model, save_tiny_vit

COUNT = 23
WIDTH = 24


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return save_tiny_vit(tmp_path_factory.mktemp("run"), width=WIDTH)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """COUNT images in two folders; the fourth cannot be read."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for index in range(COUNT):
        path = folder / "ab"[index % 2] / f"{index:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (36, 41, 3), np.uint8)).save(path)
    (folder / "a/06.png").write_bytes(b"no image")
    return folder


def run(workdir, photos, out, *options: str) -> int:
    return main([str(workdir), str(photos), f"--out={out}", "--batch-size=4", *options])


def names_of(photos) -> list[str]:
    files = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.png"))
    return [name for name in files if name != "a/06.png"]


def read(out) -> tuple[np.ndarray, list[dict]]:
    """All vectors and all names, shard after shard."""
    vectors = [np.load(path) for path in sorted(Path(out).glob("embeddings-*.npy"))]
    texts = [path.read_text() for path in sorted(Path(out).glob("images-*.jsonl"))]
    return np.concatenate(vectors), [json.loads(line) for line in "".join(texts).splitlines()]


@pytest.fixture(scope="module")
def expected(workdir, photos):
    """cls and patch tokens of both blocks, image by image."""
    model = dino_jax.load(workdir)
    paths = [photos / name for name in names_of(photos)]
    blocks = [model.intermediate([path], [0, 1]) for path in paths]
    return [
        {
            name: np.stack([np.asarray(b[layer][name][0]) for b in blocks])
            for name in ("cls", "patches")
        }
        for layer in range(2)
    ]


def test_every_readable_image_has_a_row(workdir, photos, expected, tmp_path, capsys):
    assert run(workdir, photos, tmp_path / "out", "--shard-images=10") == 0
    vectors, lines = read(tmp_path / "out")
    assert [line["name"] for line in lines] == names_of(photos)
    assert [line["label"] for line in lines] == [name[0] for name in names_of(photos)]
    np.testing.assert_allclose(vectors, expected[1]["cls"], rtol=0, atol=1e-5)
    assert "22 images in 3 shards; 1 images could not be read" in capsys.readouterr().out
    (lost,) = (tmp_path / "out").glob("unreadable-*.txt")
    assert lost.name == "unreadable-00000-of-00003.txt"
    assert lost.read_text().strip().endswith("a/06.png")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--tokens=mean",), [(1, "patches")]),
        (("--tokens=both",), [(1, "cls"), (1, "patches")]),
        (("--layers=2",), [(0, "cls"), (1, "cls")]),
        (
            ("--layers=2", "--tokens=both"),
            [(0, "cls"), (0, "patches"), (1, "cls"), (1, "patches")],
        ),
    ],
)
def test_tokens_and_layers_stand_side_by_side(workdir, photos, expected, tmp_path, options, parts):
    assert run(workdir, photos, tmp_path / "out", *options) == 0
    columns = [expected[layer][name] for layer, name in parts]
    columns = [x.mean(axis=1) if x.ndim == 3 else x for x in columns]
    wanted = np.concatenate(columns, axis=1)
    np.testing.assert_allclose(read(tmp_path / "out")[0], wanted, rtol=0, atol=1e-5)


def test_vectors_have_length_1_if_asked(workdir, photos, expected, tmp_path):
    assert run(workdir, photos, tmp_path / "out", "--normalize") == 0
    cls = expected[1]["cls"]
    wanted = cls / np.linalg.norm(cls, axis=1, keepdims=True)
    np.testing.assert_allclose(read(tmp_path / "out")[0], wanted, rtol=0, atol=1e-6)


def test_principal_components_are_those_of_the_images(workdir, photos, expected, tmp_path):
    options = ("--reduce=pca", "--dim=3", "--shard-images=9")
    assert run(workdir, photos, tmp_path / "out", *options) == 0
    centered = expected[1]["cls"] - expected[1]["cls"].mean(axis=0)
    scores = centered @ np.linalg.svd(centered)[2][:3].T
    vectors = read(tmp_path / "out")[0]
    signs = np.sign(np.sum(vectors * scores, axis=0))
    np.testing.assert_allclose(vectors * signs, scores, rtol=0, atol=1e-4)


def test_a_random_projection_is_drawn_once_and_keeps_products_on_average(
    workdir, photos, expected, tmp_path
):
    options = ("--reduce=random", "--dim=16", "--normalize")
    assert run(workdir, photos, tmp_path / "out", *options) == 0
    with np.load(tmp_path / "out/projection.npz") as arrays:
        matrix = arrays["matrix"]
    assert matrix.shape == (WIDTH, 16)
    np.testing.assert_allclose(np.mean(np.sum(matrix**2, axis=1)), 1, atol=0.25)
    wanted = expected[1]["cls"] @ matrix
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(read(tmp_path / "out")[0], wanted, rtol=0, atol=1e-5)


def test_parquet_holds_the_same(workdir, photos, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    assert run(workdir, photos, tmp_path / "npy") == 0
    assert run(workdir, photos, tmp_path / "parquet", "--format=parquet", "--shard-images=15") == 0
    paths = sorted((tmp_path / "parquet").glob("*.parquet"))
    rows = [row for path in paths for row in parquet.read_table(path).to_pylist()]
    vectors, lines = read(tmp_path / "npy")
    assert len(paths) == 2
    assert [{"name": row["name"], "label": row["label"]} for row in rows] == lines
    np.testing.assert_allclose([row["embedding"] for row in rows], vectors, rtol=0, atol=1e-6)


def test_a_shard_without_a_readable_image_is_empty(workdir, photos, tmp_path):
    assert run(workdir, photos, tmp_path / "out", "--shard-images=1") == 0
    shapes = [np.load(path).shape for path in sorted((tmp_path / "out").glob("embeddings-*.npy"))]
    assert shapes == [(0 if index == 3 else 1, WIDTH) for index in range(COUNT)]


def test_a_stopped_command_goes_on_and_gives_the_same(
    workdir, photos, tmp_path, monkeypatch, capsys
):
    options = ("--shard-images=6", "--reduce=pca", "--dim=4")
    assert run(workdir, photos, tmp_path / "whole", *options) == 0
    write, written = Shards.write, []

    def stop_at_the_third(self, shard, rows):
        if len(written) == 2:
            raise Stopped(75, "SIGTERM")
        written.append(shard)
        write(self, shard, rows)

    monkeypatch.setattr(Shards, "write", stop_at_the_third)
    assert run(workdir, photos, tmp_path / "out", *options) == 75
    assert "SIGTERM: the same command continues" in capsys.readouterr().err
    monkeypatch.setattr(Shards, "write", lambda *args: (written.append(args[1]), write(*args)))
    assert run(workdir, photos, tmp_path / "out", *options) == 0
    assert written == [0, 1, 2, 3]
    files = [{p.name for p in (tmp_path / name).iterdir()} for name in ("whole", "out")]
    assert files[0] == files[1]
    np.testing.assert_allclose(
        read(tmp_path / "out")[0], read(tmp_path / "whole")[0], rtol=0, atol=1e-6
    )


def test_two_processes_make_the_same_files(workdir, photos, tmp_path):
    options = ("--shard-images=6", "--reduce=pca", "--dim=4")
    assert run(workdir, photos, tmp_path / "one", *options) == 0
    command = (str(workdir), str(photos), f"--out={tmp_path / 'two'}", "--batch-size=4", *options)
    finished = run_processes(*command, processes=2, devices=2, module="dino_jax.embedding")
    assert [process.code for process in finished] == [0, 0], finished
    assert "22 images in 4 shards" in finished[0].out
    assert "shards" not in finished[1].out  # a slow one may say how far it is
    one, two = (read(tmp_path / name) for name in ("one", "two"))
    assert one[1] == two[1]
    np.testing.assert_allclose(one[0], two[0], rtol=0, atol=1e-6)


def test_a_resnet_has_vectors_too(photos, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    save_model(folder, digits_resnet.get_config())
    assert run(folder, photos, tmp_path / "out", "--tokens=both") == 0
    vectors = read(tmp_path / "out")[0]
    assert vectors.shape[0] == COUNT - 1 and np.isfinite(vectors).all()


def test_other_options_are_refused_in_the_same_folder(workdir, photos, tmp_path, capsys):
    assert run(workdir, photos, tmp_path / "out") == 0
    with pytest.raises(SystemExit, match="2"):
        run(workdir, photos, tmp_path / "out", "--normalize", "--compute=bfloat16")
    error = capsys.readouterr().err
    assert "computed in bfloat16" in error
    assert "belongs to another embedding" in error
    assert "normalize: " in error and "has False, this command has True" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tokens=all",), "--tokens: invalid choice: 'all'"),
        (("--layers=3",), "--layers=3: this VisionTransformer gives the features of 1 to 2 layers"),
        (("--reduce=pca", "--dim=25"), "--dim=25: PCA of 23 sample images with 24 numbers each"),
        (("--reduce=random", "--dim=25"), "--dim=25: a projection of 24 numbers gives 1 to 24"),
        (("--reduce=svd",), "--reduce: invalid choice: 'svd'"),
        (("--format=csv",), "--format: invalid choice: 'csv'"),
        (("--batch-size=3",), "--batch-size=3 must be a multiple of the 4 devices"),
        (("--shard-images=0",), "--shard-images: must be at least 1, got 0"),
        (("--step=7",), "no checkpoint 7"),
    ],
)
def test_wrong_values_are_named(workdir, photos, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit, match="2"):
        run(workdir, photos, tmp_path / "out", *options)
    assert message in capsys.readouterr().err


def test_a_folder_without_images_and_a_model_that_is_not_there_are_errors(
    workdir, photos, tmp_path, capsys
):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="2"):
        run(workdir, tmp_path / "empty", tmp_path / "out")
    assert "holds no images" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        run(tmp_path / "nowhere", photos, tmp_path / "out")
    assert "is neither the workdir of a run" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
