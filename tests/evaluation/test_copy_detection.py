"""dino-jax evaluate copy_detection, on a small data set in the layout of Copydays."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dino_jax
from dino_jax.evaluation.__main__ import main
from tests.run_train import run_processes
from tests.saved_model import save_tiny_vit

ORIGINALS = 6


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return save_tiny_vit(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def copydays(tmp_path_factory) -> Path:
    """Photos 2000 to 2005, each with one poor copy, some with strong ones; distractors."""
    folder, rng = tmp_path_factory.mktemp("copydays"), np.random.default_rng(0)
    for name in ("original", "strong", "jpegqual/3", "distractors", "train"):
        (folder / name).mkdir(parents=True)
    for number in range(ORIGINALS):
        photo = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8)).resize((60, 50))
        photo.save(folder / f"original/200{number}00.jpg")
        photo.save(folder / f"jpegqual/3/200{number}01.jpg", quality=3)
        if number % 2:
            photo.crop((20, 5, 60, 45)).rotate(90).save(folder / f"strong/200{number}02.jpg")
            photo.crop((0, 9, 30, 50)).save(folder / f"strong/200{number}03.jpg")
    for number in range(30):
        noise = Image.fromarray(rng.integers(0, 256, (7, 5, 3), np.uint8)).resize((40, 40))
        noise.save(folder / f"{'distractors' if number < 20 else 'train'}/{number:02}.jpg")
    return folder


def run(workdir, data, out, *options: str) -> dict:
    arguments = [f"--checkpoint={workdir}", f"--data={data}", f"--out={out}", "--imsize=33"]
    assert main(["copy_detection", *arguments, *options]) == 0
    return json.loads((out / "copy_detection.json").read_text())


def plain_features(model, paths) -> np.ndarray:
    """cls token and fourth-power mean of the patches, of 32 x 32 pixels."""
    rows = []
    for path in paths:
        image = Image.open(path).convert("RGB").resize((32, 32), Image.Resampling.BICUBIC)
        features = {k: np.asarray(v[0]) for k, v in model(np.asarray(image)[None]).items()}
        pooled = (np.maximum(features["patches"], 1e-6) ** 4).mean(axis=0) ** 0.25
        rows.append(np.concatenate([features["cls"], pooled]))
    return np.stack(rows).astype(np.float64)


def plain_map(queries, database, positives) -> float:
    """Over the first 20, hit by hit."""
    values = []
    for query, wanted in zip(queries, positives, strict=True):
        cosine = database @ query / np.linalg.norm(database, axis=1)
        area, hits = 0.0, 0
        for rank, index in enumerate(np.argsort(-cosine)[:20]):
            if index in wanted:
                area += (hits / rank if rank else 1.0) / 2 + (hits + 1) / (rank + 1) / 2
                hits += 1
        values.append(area / len(wanted))
    return 100 * float(np.mean(values))


@pytest.mark.parametrize("whitening", ("", "centered", "reference"))
def test_scores_are_those_of_images_embedded_one_by_one(workdir, copydays, tmp_path, whitening):
    options = ["--batch-size=8", f"--distractors={copydays / 'distractors'}"]
    options += [f"--whitening={copydays / 'train'}"] if whitening else []
    options += ["--reference"] if whitening == "reference" else []
    result = run(workdir, copydays, tmp_path, *options)
    model = dino_jax.load(workdir)
    names = ("original", "distractors", "train", "strong", "jpegqual/3")
    x = {name: plain_features(model, sorted((copydays / name).iterdir())) for name in names}
    if whitening:
        mean = x["train"].mean(axis=0)
        around = x["train"] - (0 if whitening == "reference" else mean)
        values, vectors = np.linalg.eigh(around.T @ around / len(around))
        root = np.sqrt(np.maximum(values, 1e-5 * values.max()))
        x = {name: (rows - mean) @ vectors / root for name, rows in x.items()}
    database = np.concatenate([x["original"], x["distractors"]])
    strong = [[1], [1], [3], [3], [5], [5]]
    expected = {
        "mAP_strong": plain_map(x["strong"], database, strong),
        "mAP_jpegqual/3": plain_map(x["jpegqual/3"], database, [[i] for i in range(ORIGINALS)]),
    }
    assert result["metrics"] == pytest.approx(expected, abs=1e-4)
    settings = result["settings"]
    assert settings["imsize"] == 32  # 33 is no multiple of a patch
    assert (settings["originals"], settings["distractors"]) == (ORIGINALS, 20)
    assert settings["copies"] == {"strong": 6, "jpegqual/3": ORIGINALS}


def test_two_processes_share_the_images(workdir, copydays, tmp_path):
    options = (f"--whitening={copydays / 'train'}", "--imsize=32")
    one = run(workdir, copydays, tmp_path / "one", *options)
    command = ("copy_detection", f"--checkpoint={workdir}", f"--data={copydays}", *options)
    out = f"--out={tmp_path / 'two'}"
    finished = run_processes(*command, out, processes=2, devices=2, module="dino_jax.evaluation")
    assert [process.code for process in finished] == [0, 0], finished
    assert "mAP_strong" in finished[0].out and "mAP_strong" not in finished[1].out
    two = json.loads((tmp_path / "two/copy_detection.json").read_text())
    assert two["metrics"] == pytest.approx(one["metrics"], abs=1e-4)
    assert two["settings"] == one["settings"]


def copy_of(copydays, tmp_path) -> Path:
    folder = tmp_path / "copydays"
    for path in copydays.rglob("*.jpg"):
        target = folder / path.relative_to(copydays)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return folder


def test_unreadable_images_are_left_out_and_named(workdir, copydays, tmp_path):
    folder = copy_of(copydays, tmp_path)
    lost = [folder / "original/200100.jpg", folder / "strong/200302.jpg"]
    for path in lost:
        path.write_bytes(path.read_bytes()[:200])
    result = run(workdir, folder, tmp_path / "out")
    assert result["settings"]["unreadable"] == {"count": 2, "names": [str(path) for path in lost]}
    model = dino_jax.load(workdir)
    kept = [path for path in sorted((folder / "original").iterdir()) if path not in lost]
    database = plain_features(model, kept)
    copies = plain_features(model, [folder / f"jpegqual/3/200{i}01.jpg" for i in (0, 2, 3, 4, 5)])
    expected = plain_map(copies, database, [[i] for i in range(5)])
    assert result["metrics"]["mAP_jpegqual/3"] == pytest.approx(expected, abs=1e-4)


def test_files_that_do_not_belong_together_are_named(workdir, copydays, tmp_path, capsys):
    def fails(data, *options) -> str:
        with pytest.raises(SystemExit, match="2"):
            main(["copy_detection", f"--checkpoint={workdir}", f"--data={data}", *options])
        return capsys.readouterr().err

    assert "holds 0 originals and 0 copies" in fails(tmp_path)
    folder = copy_of(copydays, tmp_path)
    assert "--imsize=3 is smaller than one patch" in fails(folder, "--imsize=3")
    assert "/nowhere" in fails(folder, "--distractors=/nowhere")
    (folder / "jpegqual/3/200001.jpg").unlink()
    assert "jpegqual/3 has 5 images for 6 originals" in fails(folder)
    (folder / "original/200100.jpg").unlink()
    assert "no original begins with '2001'" in fails(folder)
    for path in (folder / "original").iterdir():
        path.write_bytes(b"")
    for path in (folder / "strong").iterdir():
        path.unlink()
    (folder / "jpegqual/3/200101.jpg").unlink()
    (folder / "jpegqual/3/200101.jpg").with_name("200001.jpg").write_bytes(b"")
    assert "can be read" in fails(folder)
