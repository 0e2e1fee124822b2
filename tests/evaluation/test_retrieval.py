"""The retrieval evaluation, on a small data set in the layout of revisited Oxford."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dino_jax
from dino_jax.evaluation.__main__ import main
from dino_jax.evaluation.multi_scale import multi_scale_features
from tests.evaluation.test_ranking import plain_ap
from tests.saved_model import save_tiny_vit

DATABASE, QUERIES = 9, 3
TRUTH = [
    {"bbx": [4.0, 2.0, 36.0, 26.0], "easy": np.array([0, 3]), "hard": np.array([5]), "junk": [7]},
    {"bbx": [0.0, 0.0, 32.0, 20.0], "easy": np.array([1]), "hard": [], "junk": np.array([2, 6])},
    {"bbx": [1.0, 1.0, 33.0, 25.0], "easy": [], "hard": np.array([4, 8]), "junk": np.array([])},
]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return save_tiny_vit(tmp_path_factory.mktemp("run"))


@pytest.fixture
def oxford(tmp_path) -> Path:
    """Images of two shapes; some larger, some smaller than --imsize=32."""
    folder, rng = tmp_path / "roxford5k", np.random.default_rng(0)
    (folder / "jpg").mkdir(parents=True)
    names = [f"church_{i:06}" for i in range(DATABASE)], [f"query_{i}" for i in range(QUERIES)]
    for number, name in enumerate([*names[0], *names[1]]):
        shape = ((50, 40), (32, 24))[number % 2]
        colors = rng.integers(0, 256, (3, 4, 3), np.uint8)
        image = Image.fromarray(colors).resize(shape, Image.Resampling.BICUBIC)
        image.save(folder / "jpg" / f"{name}.jpg")
    write_truth(folder, {"imlist": names[0], "qimlist": names[1], "gnd": TRUTH})
    return folder


def write_truth(folder, content):
    (folder / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(content, 2))


def run(workdir, data, out, *options: str) -> dict:
    arguments = [f"--checkpoint={workdir}", f"--data={data}", f"--out={out}", "--imsize=32"]
    assert main(["retrieval", *arguments, *options]) == 0
    return json.loads((out / "retrieval.json").read_text())


def see(folder, name, model, box=None) -> np.ndarray:
    """[1, h, w, 3] as the network sees it at scale 1."""
    image = Image.open(folder / "jpg" / f"{name}.jpg").convert("RGB")
    if box:
        image = image.crop(box)
    image.thumbnail((32, 32), Image.Resampling.LANCZOS)
    mean, std = model.network.mean, model.network.std
    return ((np.asarray(image) / 255 - mean) / std).astype(np.float32)[None]


@pytest.mark.parametrize(("multiscale", "boxes"), [(False, False), (True, True)])
def test_scores_are_those_of_images_embedded_one_by_one(
    workdir, oxford, tmp_path, multiscale, boxes
):
    options = ["--batch-size=4"]
    options += ["--multiscale"] * multiscale + ["--query-boxes"] * boxes
    result = run(workdir, oxford, tmp_path / "out", *options)
    model = dino_jax.load(workdir)

    def embed(images):
        return np.asarray(model(images)["cls"], np.float32)

    def vector(name, box=None):
        image = see(oxford, name, model, box)
        if multiscale:
            return multi_scale_features(embed, image)[0]
        return embed(image)[0] / np.linalg.norm(embed(image)[0])

    database = np.stack([vector(f"church_{i:06}") for i in range(DATABASE)])
    rankings = []
    for i, truth in enumerate(TRUTH):
        query = vector(f"query_{i}", truth["bbx"] if boxes else None)
        rankings.append(np.argsort(-(database @ query)))
    medium = [
        plain_ap(ranking, {*truth["easy"], *truth["hard"]}, set(truth["junk"]))[0]
        for ranking, truth in zip(rankings, TRUTH, strict=True)
    ]
    hard = [
        plain_ap(rankings[i], set(TRUTH[i]["hard"]), {*TRUTH[i]["junk"], *TRUTH[i]["easy"]})[0]
        for i in (0, 2)
    ]
    metrics = result["metrics"]
    assert metrics["mAP_medium"] == pytest.approx(100 * np.mean(medium), abs=1e-4)
    assert metrics["mAP_hard"] == pytest.approx(100 * np.mean(hard), abs=1e-4)
    assert {"mP@1_medium", "mP@5_hard", "mP@10_hard"} < set(metrics)
    settings = result["settings"]
    assert settings["counted"] == {"medium": 3, "hard": 2} and settings["images"] == DATABASE
    assert settings["unreadable"] == {"count": 0, "names": []}
    assert len(settings["scales"]) == (3 if multiscale else 1)


def test_unreadable_images_are_left_out_and_named(workdir, oxford, tmp_path):
    for name in ("church_000005", "query_1"):
        (oxford / "jpg" / f"{name}.jpg").write_bytes(b"no image")
    settings = run(workdir, oxford, tmp_path / "out")["settings"]
    names = [str(oxford / "jpg" / f"{name}.jpg") for name in ("church_000005", "query_1")]
    assert settings["unreadable"] == {"count": 2, "names": names}
    # The only hard positive of query 0 is gone, and so is query 1.
    assert settings["counted"] == {"medium": 2, "hard": 1}


def fails(capsys, workdir, data, *options) -> str:
    arguments = [f"--checkpoint={workdir}", f"--data={data}", *options]
    with pytest.raises(SystemExit, match="2"):
        main(["retrieval", *arguments])
    return capsys.readouterr().err


def test_a_data_set_that_is_not_there_is_named(workdir, oxford, tmp_path, capsys):
    assert "holds 0 files gnd_*.pkl" in fails(capsys, workdir, tmp_path / "nowhere")
    (oxford / "jpg/church_000003.jpg").unlink()
    error = fails(capsys, workdir, oxford)
    assert "lacks 1 of the 12 images" in error and "church_000003.jpg" in error
    assert "argument --imsize: must be at least 1" in fails(capsys, workdir, oxford, "--imsize=0")


def test_a_ground_truth_that_calls_a_program_is_refused(workdir, oxford, tmp_path, capsys):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    write_truth(oxford, {"imlist": Evil(), "qimlist": [], "gnd": []})
    assert "system, which is refused" in fails(capsys, workdir, oxford)
    assert not (tmp_path / "ran").exists()


def test_a_ground_truth_of_another_kind_is_refused(workdir, oxford, capsys):
    names = [f"church_{i:06}" for i in range(DATABASE)]
    for wrong in ({}, [1], {"imlist": names, "qimlist": [], "gnd": [{"bbx": [1]}]}):
        write_truth(oxford, wrong)
        assert "is not a ground truth of revisited Oxford" in fails(capsys, workdir, oxford)
    write_truth(oxford, {"imlist": names[:4], "qimlist": ["query_0"], "gnd": TRUTH[:1]})
    assert "name image 7 of 4" in fails(capsys, workdir, oxford)


def test_images_smaller_than_a_patch_are_named(workdir, oxford, capsys):
    assert "--imsize=3 is smaller than one patch of 8 pixels" in fails(
        capsys, workdir, oxford, "--imsize=3"
    )
