"""dino-jax evaluate linear and logreg: classifiers on frozen features."""

import numpy as np
import pytest
from safetensors.numpy import save_file
from sklearn.linear_model import LogisticRegression

import dino_jax
from configs import digits_resnet
from dino_jax.evaluation.__main__ import main
from tests.colored_photos import evaluate_as_one_and_two, files_of, read, write_photos
from tests.saved_model import save_model, save_tiny_vit


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return save_tiny_vit(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.mark.parametrize(
    ("protocol", "options"),
    [
        ("logreg", ("--C", "0.01", "1", "100")),
        ("linear", ("--epochs=2", "--train-batch-size=8", "--learning-rates", "0.1", "1")),
    ],
)
def test_two_processes_find_the_same(workdir, photos, tmp_path, protocol, options):
    command = (protocol, f"--checkpoint={workdir}", f"--data={photos}", "--batch-size=8", *options)
    evaluate_as_one_and_two(tmp_path, *command)
    assert read(tmp_path / f"two/{protocol}.json") == read(tmp_path / f"one/{protocol}.json")


def test_logistic_regression_is_that_of_scikit_learn(workdir, photos, tmp_path):
    command = ("logreg", f"--checkpoint={workdir}", f"--data={photos}", f"--out={tmp_path}")
    assert main([*command, "--C", "0.1", "10"]) == 0
    found = read(tmp_path / "logreg.json")
    model = dino_jax.load(workdir)
    (train, labels), (test, test_labels) = (files_of(photos, part) for part in ("train", "val"))
    reference = LogisticRegression(C=found["metrics"]["best_C"], tol=1e-8, max_iter=5000)
    reference.fit(np.asarray(model(train)["cls"], np.float64), labels)
    wanted = 100 * reference.score(np.asarray(model(test)["cls"], np.float64), test_labels)
    assert found["metrics"]["top1"] == pytest.approx(wanted)
    assert found["settings"]["held_out_images"] == 2
    assert set(found["settings"]["held_out_top1"]) == {"0.1", "10"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--C", "0", "1"), "--C: must be above 0, got 0.0"),
        (("--max-iterations=0",), "--max-iterations: must be at least 1"),
    ],
)
def test_wrong_values_of_the_regression_are_named(workdir, photos, capsys, options, message):
    with pytest.raises(SystemExit, match="2"):
        main(["logreg", f"--checkpoint={workdir}", f"--data={photos}", *options])
    assert message in capsys.readouterr().err


def test_linear_classifiers_are_scored_after_every_epoch(workdir, photos, tmp_path):
    command = ("linear", f"--checkpoint={workdir}", f"--data={photos}", f"--out={tmp_path}")
    options = ("--epochs=4", "--train-batch-size=12", "--learning-rates", "0.01", "4")
    assert main([*command, *options]) == 0
    found = read(tmp_path / "linear.json")
    settings, metrics = found["settings"], found["metrics"]
    # The learning rate is scaled with the batch; all two blocks are seen.
    assert set(settings["classifiers"]) == {
        f"blocks=2 avgpool=no lr={rate * 12 / 256:g}" for rate in (0.01, 4)
    }
    assert list(settings["top1_by_step"]) == ["2", "4", "6", "8"]
    best = max(settings["classifiers"].values())
    assert metrics["top1"] == pytest.approx(best, abs=1e-3)
    assert metrics["top1"] == pytest.approx(max(settings["top1_by_step"].values()), abs=1e-3)
    assert settings["classifiers"][settings["best_classifier"]] == best
    assert (settings["train_images"], settings["test_images"], settings["steps"]) == (24, 12, 8)


def test_dinov2_trains_52_classifiers_and_scores_them_in_the_end(photos, tmp_path):
    (tmp_path / "run").mkdir()
    workdir = save_tiny_vit(tmp_path / "run", depth=4)
    bad = photos / "train/green/bad.png"
    bad.write_bytes(b"no image")
    command = ("linear", f"--checkpoint={workdir}", f"--data={photos}", "--convention=dinov2")
    try:
        assert main([*command, "--iterations=20", "--train-batch-size=8"]) == 0
    finally:
        bad.unlink()
    settings = read(workdir / "eval/0/linear.json")["settings"]
    assert len(settings["classifiers"]) == 52
    assert "blocks=4 avgpool=yes lr=0.003125" in settings["classifiers"]
    assert list(settings["top1_by_step"]) == ["20"]
    assert settings["unreadable_train"] == {"count": 1, "names": [str(bad)]}


def test_a_released_classifier_is_evaluated_without_training(workdir, photos, tmp_path):
    """DINO's for ViT-B: on the cls token and the mean of the patch tokens, number by number."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(3, 48)).astype(np.float32)
    bias = rng.normal(size=3).astype(np.float32)
    file = tmp_path / "linearweights.safetensors"
    save_file({"module.linear.weight": weight, "module.linear.bias": bias}, file)
    command = ("linear", f"--checkpoint={workdir}", f"--classifier={file}", f"--out={tmp_path}")
    options = ("--last-blocks", "1", "--avgpool", "yes", f"--test={photos}/val")
    assert main([*command, *options]) == 0
    paths, labels = files_of(photos, "val")
    outputs = dino_jax.load(workdir)(paths)
    cls, mean = np.asarray(outputs["cls"]), np.asarray(outputs["patches"]).mean(axis=1)
    logits = cls @ weight[:, 0::2].T + mean @ weight[:, 1::2].T + bias
    wanted = 100 * np.mean(logits.argmax(axis=1) == labels)
    assert 0 < wanted < 100
    found = read(tmp_path / "linear.json")
    assert found["metrics"] == {"top1": pytest.approx(wanted)}
    assert found["settings"]["classifier"] == str(file)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((3,), ("--last-blocks", "1"), "is not a linear classifier"),
        ((4, 24), ("--last-blocks", "1"), "shape (4, 24), expected (3, 24) for 3 classes"),
        ((3, 24), ("--last-blocks", "2"), "shape (3, 24), expected (3, 48)"),
        ((3, 24), ("--last-blocks", "1", "2"), "--classifier is one: name one of --last-blocks"),
    ],
)
def test_a_classifier_of_other_sizes_is_an_error(
    workdir, photos, tmp_path, capsys, shape, options, message
):
    names = ("weight", "bias") if len(shape) == 2 else ("weight",)
    file = tmp_path / "head.safetensors"
    shapes = dict(zip(names, (shape, shape[:1]), strict=False))
    save_file({name: np.zeros(own, np.float32) for name, own in shapes.items()}, file)
    with pytest.raises(SystemExit, match="2"):
        main(
            [
                "linear",
                f"--checkpoint={workdir}",
                f"--classifier={file}",
                f"--data={photos}",
                *options,
            ]
        )
    assert message in capsys.readouterr().err


def test_a_resnet_has_one_block_of_features(photos, tmp_path):
    (tmp_path / "run").mkdir()
    workdir = save_model(tmp_path / "run", digits_resnet.get_config())
    command = ("linear", f"--checkpoint={workdir}", f"--data={photos}", "--convention=dinov2")
    options = ("--iterations=2", "--train-batch-size=8", "--learning-rates", "0.1")
    assert main([*command, *options]) == 0
    settings = read(workdir / "eval/0/linear.json")["settings"]
    assert set(settings["classifiers"]) == {
        f"blocks=1 avgpool={avgpool} lr=0.003125" for avgpool in ("no", "yes")
    }


def test_maes_convention_has_one_classifier_and_a_warm_up(workdir, photos, tmp_path):
    command = ("linear", f"--checkpoint={workdir}", f"--data={photos}", "--convention=mae")
    assert main([*command, "--epochs=11", "--train-batch-size=8", f"--out={tmp_path}"]) == 0
    settings = read(tmp_path / "linear.json")["settings"]
    assert list(settings["classifiers"]) == [f"blocks=1 avgpool=no lr={0.1 * 8 / 256:g}"]
    assert list(settings["top1_by_step"]) == [str(3 * epoch) for epoch in range(1, 12)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--convention=mae", "--epochs=10"), "--epochs=10: --convention=mae has a warm-up of 10"),
        (("--convention=mae", "--iterations=9"), "--iterations is not for --convention=mae"),
        (("--last-blocks", "3"), "--last-blocks [3]: this VisionTransformer gives the features of"),
        (("--avgpool", "yes"), "has --avgpool yes only with --last-blocks 1"),
        (("--learning-rates", "0"), "--learning-rates: must be above 0"),
        (("--epochs=0",), "--epochs: must be at least 1"),
        (("--iterations=5",), "--iterations is not for --convention=dino; use --epochs there"),
        (("--train-batch-size=6",), "--train-batch-size=6 must be a multiple of the 4"),
    ],
)
def test_wrong_values_of_linear_classifiers_are_named(workdir, photos, capsys, options, message):
    with pytest.raises(SystemExit, match="2"):
        main(["linear", f"--checkpoint={workdir}", f"--data={photos}", *options])
    assert message in capsys.readouterr().err
