"""dino-jax evaluate: from a checkpoint and images to PROTOCOL.json."""

import contextlib
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import dino_jax
from dino_jax.commands.signals import Stopped
from dino_jax.evaluation import evaluate, frozen
from dino_jax.evaluation.__main__ import main
from dino_jax.evaluation.protocols.knn import draw_few
from dino_jax.weights import export_weights, import_weights
from tests.colored_photos import (
    CLASSES,
    evaluate_as_one_and_two,
    files_of,
    read,
    write_photos,
)
from tests.run_train import Train, slurm_of
from tests.saved_model import save_tiny_vit


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return save_tiny_vit(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


def knn(workdir, *options: str) -> int:
    return main(["knn", f"--checkpoint={workdir}", "--batch-size=8", *options])


def plain_accuracy(workdir, photos, k: int) -> float:
    """From one image after the other, in float64."""
    model = dino_jax.load(workdir)

    def embed(part):
        paths, labels = files_of(photos, part)
        rows = np.stack([np.asarray(model([path])["cls"][0], np.float64) for path in paths])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True), labels

    (train, train_labels), (test, test_labels) = embed("train"), embed("val")
    hits = 0
    for image, label in zip(test, test_labels, strict=True):
        similarity = train @ image
        nearest = np.argsort(-similarity)[:k]
        weights = np.exp(similarity[nearest] / 0.07)
        hits += np.argmax(np.bincount(train_labels[nearest], weights, len(CLASSES))) == label
    return 100 * hits / len(test)


def test_knn_writes_accuracy_and_settings_beside_the_checkpoint(workdir, photos, capsys):
    assert knn(workdir, f"--data={photos}", "--k", "1", "5", "24") == 0
    found = read(workdir / "eval/0/knn.json")
    wanted = {f"knn{k}_top1": plain_accuracy(workdir, photos, k) for k in (1, 5, 24)}
    assert found["metrics"] == pytest.approx(wanted)
    assert len(set(wanted.values())) > 1
    settings = found["settings"]
    assert (settings["train_images"], settings["test_images"]) == (24, 12)
    assert (settings["classes"], settings["k"], settings["image_size"]) == (3, [1, 5, 24], 32)
    printed = capsys.readouterr().out
    assert f"teacher of step 0 of {workdir}" in printed
    assert f"{wanted['knn5_top1']:8.3f}" in printed
    assert [path.name for path in (workdir / "eval/0").iterdir()] == ["knn.json"]


def test_a_file_of_weights_has_its_results_beside_it(photos, tmp_path):
    """And an imported folder inside it; the numbers are those of the run."""
    (tmp_path / "run").mkdir()
    workdir = save_tiny_vit(tmp_path / "run", width=192, depth=1)
    file, folder = tmp_path / "weights.safetensors", tmp_path / "imported"
    assert export_weights.main([str(workdir), f"--out={file}", "--names=official"]) == 0
    assert import_weights.main([str(file), f"--out={folder}"]) == 0
    options = (f"--data={photos}", "--k", "5", "--image-size=32")
    for checkpoint in (workdir, file, folder):
        assert knn(checkpoint, *options) == 0
    found = [
        read(tmp_path / path / "knn.json")["metrics"]
        for path in ("run/eval/0", "weights.eval", "imported/eval/0")
    ]
    assert found[0] == found[1] == found[2]


def test_the_digits_need_no_files(workdir, tmp_path):
    assert knn(workdir, "--kind=digits", "--k", "10", f"--out={tmp_path}") == 0
    found = read(tmp_path / "knn.json")
    assert (found["settings"]["train_images"], found["settings"]["test_images"]) == (1438, 359)
    assert 0 < found["metrics"]["knn10_top1"] < found["metrics"]["knn10_top5"] <= 100


def test_both_parts_can_be_named_and_a_config_names_them_too(workdir, photos, tmp_path):
    parts = (f"--train={photos}/train", f"--test={photos}/val")
    assert knn(workdir, *parts, "--k", "5", f"--out={tmp_path}/parts") == 0
    assert knn(workdir, f"--data={photos}", "--k", "5", f"--out={tmp_path}/whole") == 0
    assert read(tmp_path / "parts/knn.json") == read(tmp_path / "whole/knn.json")
    config = "--data=configs/quickstart.py"
    assert knn(workdir, config, "--k", "10", f"--out={tmp_path}/config") == 0
    assert read(tmp_path / "config/knn.json")["settings"]["train_images"] == 1438


def test_a_folder_of_class_folders_is_evaluated_leave_one_out(workdir, photos, tmp_path, capsys):
    folder = photos / "train"
    options = ("--k", "1", "3", f"--out={tmp_path}")
    assert knn(workdir, f"--data={folder}", *options) == 0
    said = f"{folder} has no train/ and val/: leave-one-out, each of its 24 images is classified by"
    assert said in capsys.readouterr().out
    found = read(tmp_path / "knn.json")
    assert (found["settings"]["split"], found["settings"]["images"]) == ("leave-one-out", 24)
    paths, labels = files_of(photos, "train")
    model = dino_jax.load(workdir)
    rows = np.stack([np.asarray(model([path])["cls"][0], np.float64) for path in paths])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    similarity = rows @ rows.T - 10 * np.eye(24)
    wanted = 100 * np.mean(labels[similarity.argmax(axis=1)] == labels)
    assert found["metrics"]["knn1_top1"] == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("folder", "options", "message"),
    [
        ("one", (), "one folder per class, at least two; classes found: ['red']"),
        ("train", ("--k", "1", "--per-class", "2"), "--per-class needs test images of their own"),
        ("train", ("--k", "24"), "more than the 23 other images; try --k 23"),
    ],
)
def test_leave_one_out_needs_classes_and_others(
    workdir, photos, tmp_path, folder, options, message, capsys
):
    shutil.copytree(photos / "train", tmp_path / "train")
    shutil.copytree(photos / "train/red", tmp_path / "one/red")
    with pytest.raises(SystemExit, match="2"):
        knn(workdir, f"--data={tmp_path}/{folder}", *options)
    assert message in capsys.readouterr().err


def test_a_config_without_paths_names_the_section(workdir, capsys):
    with pytest.raises(SystemExit, match="2"):
        knn(workdir, "--data=configs/vits16_vanilla.py")
    assert "its config.evaluations.knn.train has no path" in capsys.readouterr().err


def test_few_shot_averages_draws_of_each_class(workdir, photos, tmp_path):
    options = ("--k", "1", "3", "--per-class", "2", "8", "--tries", "2", f"--out={tmp_path}")
    assert knn(workdir, f"--data={photos}", *options) == 0
    metrics = read(tmp_path / "knn.json")["metrics"]
    # Neighbours up to the number per class, and that number itself.
    few = {name for name in metrics if "per_class" in name}
    assert few == {
        "2_per_class_knn1_top1",
        "2_per_class_knn2_top1",
        "8_per_class_knn1_top1",
        "8_per_class_knn3_top1",
        "8_per_class_knn8_top1",
    }
    # Eight of each class are all of them.
    assert metrics["8_per_class_knn3_top1"] == pytest.approx(metrics["knn3_top1"])


def test_a_draw_takes_so_many_of_each_class_and_depends_on_the_seed():
    labels = np.array([4, 0, 0, 4, 0, 4, 2])
    drawn = draw_few(labels, 2, seed=0)
    assert sorted(labels[drawn]) == [0, 0, 2, 4, 4]
    np.testing.assert_array_equal(drawn, draw_few(labels, 2, seed=0))
    draws = {tuple(draw_few(labels, 2, seed)) for seed in range(20)}
    assert len(draws) > 1


def test_unreadable_images_are_counted_and_named(workdir, photos, tmp_path):
    bad = photos / "train/blue/bad.png"
    bad.write_bytes(b"no image")
    try:
        assert knn(workdir, f"--data={photos}", "--k", "5", f"--out={tmp_path}") == 0
    finally:
        bad.unlink()
    settings = read(tmp_path / "knn.json")["settings"]
    assert settings["unreadable_train"] == {"count": 1, "names": [str(bad)]}
    assert settings["unreadable_test"] == {"count": 0, "names": []}
    assert settings["train_images"] == 24


def test_a_test_set_with_fewer_classes_keeps_the_labels_of_the_training_set(
    workdir, photos, tmp_path
):
    # The training images of one class, each its own nearest neighbour.
    shutil.copytree(photos / "train/red", tmp_path / "test/red")
    parts = (f"--train={photos}/train", f"--test={tmp_path}/test", "--k", "1")
    assert knn(workdir, *parts, f"--out={tmp_path}") == 0
    assert read(tmp_path / "knn.json")["metrics"] == {"knn1_top1": 100.0}


def test_two_processes_find_the_same(workdir, photos, tmp_path):
    command = ("knn", f"--checkpoint={workdir}", f"--data={photos}", "--batch-size=8")
    options = ("--k", "1", "5", "--per-class", "3")
    finished = evaluate_as_one_and_two(tmp_path, *command, *options)
    assert "written to" in finished[0].out and "written to" not in finished[1].out
    assert read(tmp_path / "two/knn.json") == read(tmp_path / "one/knn.json")


def test_processes_with_other_images_all_end_with_2(workdir, photos, tmp_path):
    """The same option, ~/photos, with one image less on the second host."""
    for home in ("a", "b"):
        shutil.copytree(photos, tmp_path / home / "photos")
    next((tmp_path / "b/photos/val").rglob("*.*")).unlink()
    command = ["knn", f"--checkpoint={workdir}", "--data=~/photos", "--batch-size=8", "--k", "1"]
    command += [f"--out={tmp_path}/out", "--distributed"]
    slurm = slurm_of(2)
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(
                Train(
                    *command,
                    module="dino_jax.evaluation",
                    environment=slurm | {"SLURM_PROCID": str(number), "HOME": str(tmp_path / home)},
                )
            )
            for number, home in enumerate(("a", "b"))
        ]
        for process in processes:
            code, _, err = process.finish()
            assert code == 2, err
            assert "images of --test: process 0 on " in err
            assert "All hosts need the same images" in err
    assert not (tmp_path / "out").exists()


def test_ctrl_c_leaves_no_file(workdir, photos, tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise Stopped(130, "SIGINT")

    monkeypatch.setattr(frozen, "extract_features", stop)
    assert knn(workdir, f"--data={photos}", "--k", "5", f"--out={tmp_path}/out") == 130
    assert "SIGINT: nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--k", "10", "200"), "200 neighbors are more than the 24 training images; try --k 10"),
        (("--k", "25"), "try --k 24"),
        (("--k", "0"), "--k: must be at least 1"),
        (("--temperature=0",), "--temperature: must be above 0"),
        (("--temperature=0.01",), "--temperature (0.01) must be above 0.0115"),
        (("--batch-size=6",), "--batch-size=6 must be a multiple of the 4 devices"),
        (("--image-size=4",), "--image-size=4 is smaller than one patch of 8 pixels"),
        (("--threads=0",), "--threads: must be at least 1"),
        (("--step=7",), "no checkpoint 7"),
        (("--kind=zip",), "kind is 'zip'; known: ['arrayrecord'"),
    ],
)
def test_wrong_values_are_named(workdir, photos, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit, match="2"):
        knn(workdir, f"--data={photos}", f"--out={tmp_path}/out", *options)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ((), "it has no folder train"),
        (("train/", "val/"), "holds no images"),
        (("train/a/1.png", "train/b/1.png"), "it has no folder val or validation or test"),
        (("train/a/1.png", "val/a/1.png"), "at least two classes, the training images have only"),
        (("train/1.png", "val/a/1.png"), "the train images have no labels"),
        (("train/a/1.png", "train/b/1.png", "val/1.png"), "the test images have no labels"),
        (
            ("train/a/1.png", "train/b/1.png", "val/c/1.png"),
            "test images have classes without training images: ['c']",
        ),
    ],
)
def test_images_that_cannot_be_classified_are_errors(workdir, tmp_path, capsys, layout, message):
    root = tmp_path / "images"
    root.mkdir()
    for name in layout:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            Image.new("RGB", (32, 32)).save(path)
    with pytest.raises(SystemExit, match="2"):
        knn(workdir, f"--data={root}", "--k", "1")
    assert message in capsys.readouterr().err


def test_images_none_of_which_can_be_read_are_an_error(workdir, tmp_path, capsys):
    for part in ("train", "val"):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
            (tmp_path / part / name / "1.png").write_bytes(b"no image")
    with pytest.raises(SystemExit, match="2"):
        knn(workdir, f"--data={tmp_path}", "--k", "1")
    assert "none of the 2 train images can be read" in capsys.readouterr().err


def test_features_that_are_not_finite_are_an_error(workdir, photos, monkeypatch, capsys):
    def load_broken(checkpoint, step, dtype):
        model = dino_jax.load(checkpoint, step)
        model.variables = jax.tree.map(lambda x: x * np.nan, model.variables)
        return model

    monkeypatch.setattr(evaluate, "load", load_broken)
    with pytest.raises(SystemExit, match="2"):
        knn(workdir, f"--data={photos}", "--k", "1")
    assert "the features of 24 of 24 train images are not finite" in capsys.readouterr().err


def test_missing_data_checkpoint_or_protocol_are_errors(workdir, photos, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        knn(workdir)
    assert "which images? Pass --data=FOLDER" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        knn(workdir, f"--data={tmp_path}/nowhere")
    assert "it does not exist" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        knn(tmp_path / "nowhere", f"--data={photos}")
    assert "is neither the workdir of a run" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["guess", f"--checkpoint={workdir}"])
    assert "invalid choice: 'guess'" in capsys.readouterr().err
