"""The segmentation evaluation, on small data sets in the layouts of ADE20K and VOC."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dino_jax.evaluation.__main__ import main
from dino_jax.evaluation.crops import CropStream, RandomCrop
from dino_jax.evaluation.davis import write_mask
from dino_jax.evaluation.linear_probe import Head, apply_head, init_head
from dino_jax.evaluation.overlap import count_pairs, score_pairs
from dino_jax.evaluation.protocols.segmentation import pixel_loss
from dino_jax.evaluation.segmentation_files import IGNORED, open_segmentation
from dino_jax.evaluation.sliding import View, classify_pixels, window_places
from tests.evaluation.test_multi_scale import plain_bilinear
from tests.run_train import run_processes
from tests.saved_model import save_tiny_vit

RNG = np.random.default_rng(0)
SMALL = ("--side=30", "--batch-size=8", "--lr=0.05", "--steps=60")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return save_tiny_vit(tmp_path_factory.mktemp("run"))


def make_pair(rng) -> tuple[np.ndarray, np.ndarray]:
    """A picture whose color tells the class: 0 dark, 1 red, 2 green."""
    height, width = rng.integers(40, 70, 2)
    mask = np.zeros((height, width), np.uint8)
    for number in (1, 2):
        top, left = rng.integers(0, 30), rng.integers(0, 30)
        mask[top : top + 20, left : left + 24] = number
    colors = np.array([[20, 20, 30], [200, 30, 20], [20, 180, 40]])[mask]
    return (colors + rng.integers(0, 30, colors.shape)).astype(np.uint8), mask


@pytest.fixture
def ade(tmp_path) -> Path:
    folder, rng = tmp_path / "ADEChallengeData2016", np.random.default_rng(1)
    for part, count in (("training", 8), ("validation", 4)):
        for kind in ("images", "annotations"):
            (folder / kind / part).mkdir(parents=True)
        for number in range(count):
            pixels, mask = make_pair(rng)
            name = f"ADE_{part[:3]}_{number:04}"
            Image.fromarray(pixels).save(folder / f"images/{part}/{name}.jpg", quality=95)
            mask = mask + 1  # 0 is "other"
            mask[:3] = 0
            Image.fromarray(mask).save(folder / f"annotations/{part}/{name}.png")
    return folder


@pytest.fixture
def voc(tmp_path) -> Path:
    folder, rng = tmp_path / "VOC2012", np.random.default_rng(2)
    for kind in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / kind).mkdir(parents=True)
    names = [f"2007_{number:06}" for number in range(9)]
    for name in names:
        pixels, mask = make_pair(rng)
        Image.fromarray(pixels).save(folder / f"JPEGImages/{name}.jpg", quality=95)
        mask[-2:] = IGNORED
        write_mask(folder / f"SegmentationClass/{name}.png", mask)
    lists = folder / "ImageSets/Segmentation"
    (lists / "train.txt").write_text("\n".join(names[:6]))
    (lists / "val.txt").write_text("\n".join(names[6:]) + "\n")
    return folder


def run(workdir, data, out, *options: str) -> dict:
    arguments = [f"--checkpoint={workdir}", f"--data={data}", f"--out={out}"]
    assert main(["segmentation", *arguments, *SMALL, *options]) == 0
    return json.loads((out / "segmentation.json").read_text())


def test_colors_are_learned_in_both_layouts(workdir, ade, voc, tmp_path):
    result = run(workdir, ade, tmp_path / "ade", "--layers=2")
    assert result["metrics"]["mIoU"] > 60 and result["metrics"]["pixel_accuracy"] > 80
    settings = result["settings"]
    assert (settings["data"], settings["side"], settings["layers"]) == ("ade20k", 32, [-2, -1])
    assert (settings["train_images"], settings["val_images"]) == (8, 4)
    result = run(workdir, voc, tmp_path / "voc", "--scales", "1", "1.3", "--mirror")
    assert result["metrics"]["mIoU"] > 60 and result["settings"]["data"] == "voc"
    untrained = run(workdir, voc, tmp_path / "voc", "--steps=1")
    assert untrained["metrics"]["mIoU"] < 30


def test_unreadable_images_are_left_out_and_named(workdir, voc, tmp_path):
    lost = [voc / f"JPEGImages/2007_{number:06}.jpg" for number in (1, 7)]
    for path in lost:
        path.write_bytes(b"no image")
    settings = run(workdir, voc, tmp_path / "out", "--steps=3")["settings"]
    assert settings["unreadable_train"] == {"count": 1, "names": [str(lost[0])]}
    assert settings["unreadable_val"] == {"count": 1, "names": [str(lost[1])]}


def test_two_processes_train_the_same_probe(workdir, voc, tmp_path):
    one = run(workdir, voc, tmp_path / "one", "--steps=12")
    arguments = (f"--checkpoint={workdir}", f"--data={voc}", f"--out={tmp_path / 'two'}")
    command = ("segmentation", *arguments, *SMALL, "--steps=12")
    finished = run_processes(*command, processes=2, devices=2, module="dino_jax.evaluation")
    assert [process.code for process in finished] == [0, 0], finished
    two = json.loads((tmp_path / "two/segmentation.json").read_text())
    assert two["metrics"] == pytest.approx(one["metrics"], abs=0.5)
    assert two["settings"] == one["settings"]


def test_what_is_missing_or_does_not_fit_is_named(workdir, ade, voc, tmp_path, capsys):
    def fails(data, *options) -> str:
        arguments = (f"--checkpoint={workdir}", f"--data={data}", "--batch-size=4", "--side=32")
        with pytest.raises(SystemExit, match="2"):
            main(["segmentation", *arguments, "--steps=2", *options])
        return capsys.readouterr().err

    assert "has neither annotations/ (ADE20K)" in fails(tmp_path)
    assert "--batch-size=3 must be a multiple" in fails(ade, "--batch-size=3")
    assert "--layers=3" in fails(ade, "--layers=3")
    assert "argument --lr: must be above 0" in fails(ade, "--lr=0")
    assert "--scales: must be at least 1" in fails(ade, "--scales", "0.5")
    masks = ade / "annotations/training"
    Image.fromarray(np.full((9, 9), 1, np.uint8)).save(masks / "ADE_tra_0003.png")
    assert "ADE_tra_0003.png has 9 x 9 pixels" in fails(ade)
    (masks / "ADE_tra_0003.png").unlink()
    assert "lacks 1 of 8 files *.png: ['ADE_tra_0003']" in fails(ade)
    write_mask(voc / "SegmentationClass/2007_000000.png", np.full((9, 9), 21, np.uint8))
    Image.new("RGB", (9, 9)).save(voc / "JPEGImages/2007_000000.jpg")
    assert "has the class 21; voc has 21 classes" in fails(voc, "--steps=9")
    (voc / "ImageSets/Segmentation/val.txt").write_text("")
    assert "the part val" in fails(voc)
    (voc / "ImageSets/Segmentation/val.txt").unlink()
    assert "val.txt, the list of images, does not exist" in fails(voc)


def test_classes_of_ade20k_begin_with_1(ade):
    files = open_segmentation(str(ade), "train")
    pixels, mask = files.read(0)
    assert pixels.shape[:2] == mask.shape and files.classes == 150
    assert (mask[:3] == IGNORED).all() and set(np.unique(mask[3:])) <= {0, 1, 2}


def test_the_loss_is_the_cross_entropy_of_enlarged_logits():
    logits = RNG.normal(size=(2, 3, 4, 5)).astype(np.float32)
    target = RNG.integers(0, 5, (2, 12, 16)).astype(np.uint8)
    target[0, :5] = IGNORED
    values = []
    for rows, labels in zip(logits, target, strict=True):
        large = plain_bilinear(rows, 12, 16, (1 / 4, 1 / 4))
        log = large - np.log(np.exp(large).sum(axis=-1, keepdims=True))
        values += [-log[y, x, labels[y, x]] for y, x in zip(*np.nonzero(labels != IGNORED))]  # noqa: B905
    actual = pixel_loss(jnp.asarray(logits), jnp.asarray(target), jnp.zeros(()))
    np.testing.assert_allclose(actual, np.mean(values), rtol=1e-5)
    nothing = pixel_loss(jnp.asarray(logits), jnp.full((2, 12, 16), IGNORED), jnp.zeros(()))
    assert nothing == 0


def test_the_head_normalises_as_torch_does():
    tokens = RNG.normal(size=(2, 3, 4, 6)).astype(np.float32) * 3 + 1
    head = init_head(jax.random.key(0), 6, 5, batch_norm=True)
    logits, new = apply_head(head, jnp.asarray(tokens), train=True)
    flat = tokens.reshape(-1, 6)
    normal = (flat - flat.mean(axis=0)) / np.sqrt(flat.var(axis=0) + 1e-5)
    expected = normal @ np.asarray(head.params["kernel"])
    np.testing.assert_allclose(logits.reshape(-1, 5), expected, atol=1e-5)
    np.testing.assert_allclose(new.statistics["mean"], 0.1 * flat.mean(axis=0), atol=1e-6)
    variance = 0.9 + 0.1 * flat.var(axis=0, ddof=1)
    np.testing.assert_allclose(new.statistics["variance"], variance, rtol=1e-5)
    tested, _ = apply_head(new, jnp.asarray(tokens))
    scaled = (flat - 0.1 * flat.mean(axis=0)) / np.sqrt(variance + 1e-5)
    np.testing.assert_allclose(
        tested.reshape(-1, 5), scaled @ np.asarray(head.params["kernel"]), atol=1e-5
    )
    plain = Head(head.params | {"bias": jnp.ones(5)}, {})
    np.testing.assert_allclose(
        apply_head(plain, jnp.asarray(tokens))[0].reshape(-1, 5),
        flat @ np.asarray(head.params["kernel"]) + 1,
        atol=1e-5,
    )


def test_windows_cover_the_image_and_end_with_it():
    assert window_places(512, 512, 512, 341) == [(0, 0)]
    assert window_places(512, 683, 512, 341) == [(0, 0), (0, 171)]
    assert window_places(9, 6, 4, 3) == [(0, 0), (0, 2), (3, 0), (3, 2), (5, 0), (5, 2)]


def plain_probabilities(view, side, patch, original) -> np.ndarray:
    """Pixel by pixel."""
    sums, counts = np.zeros((*view.size, 3)), np.zeros((*view.size, 1))
    for window, (top, left) in zip(view.logits, view.places, strict=True):
        place = slice(top, top + side), slice(left, left + side)
        sums[place] += plain_bilinear(window, side, side, (1 / patch, 1 / patch))
        counts[place] += 1
    assert counts.min() == 1 and counts.max() > 1
    steps = [n / m for n, m in zip(view.size, original, strict=True)]
    mean = (sums / counts)[:, :: -1 if view.mirrored else 1]
    odds = np.exp(plain_bilinear(mean, *original, steps))
    return odds / odds.sum(axis=-1, keepdims=True)


def test_windows_scales_and_mirrored_views_are_averaged():
    side, patch, original = 8, 4, (11, 20)
    views = []
    for size, mirrored in (((8, 13), False), ((8, 13), True), ((10, 17), False)):
        places = window_places(*size, side, 5)
        logits = RNG.normal(size=(len(places), 2, 2, 3)).astype(np.float32)
        views.append(View(logits, places, size, mirrored))
    for count in (1, 2, 3):
        parts = [plain_probabilities(view, side, patch, original) for view in views[:count]]
        actual = classify_pixels(views[:count], patch, original)
        np.testing.assert_array_equal(actual, sum(parts).argmax(axis=-1))


def test_miou_is_the_mean_over_the_classes_that_there_are():
    truth = np.array([[0, 0, 1, 1], [3, 3, 3, IGNORED]])
    predicted = np.array([[0, 1, 1, 1], [3, 3, 0, 2]])
    # IoU: class 0 1/3, class 1 2/3, class 3 2/3; class 2 is nowhere where pixels count.
    scores = score_pairs(count_pairs(predicted, truth, 4, IGNORED))
    assert scores["mIoU"] == pytest.approx(100 * (1 / 3 + 2 / 3 + 2 / 3) / 3)
    assert scores["mean_accuracy"] == pytest.approx(100 * (1 / 2 + 1 + 2 / 3) / 3)
    assert scores["pixel_accuracy"] == pytest.approx(100 * 5 / 7)
    with pytest.raises(ValueError, match="no pixel"):
        score_pairs(np.zeros((2, 2), int))


def test_crops_move_image_and_target_together():
    pixels = np.stack([np.arange(40 * 30).reshape(40, 30) % 251] * 3, axis=-1).astype(np.uint8)
    target = (pixels[..., 0] // 2).astype(np.uint8)
    crop = RandomCrop(16, 20, None, np.array([7, 8, 9], np.uint8), IGNORED)
    seen = set()
    for seed in range(20):
        a, b = crop(np.random.default_rng(seed), pixels, target)
        assert a.shape == (16, 20, 3) and b.shape == (16, 20)
        np.testing.assert_array_equal(a[..., 0] // 2, b)
        seen.add(a.tobytes())
    assert len(seen) == 20
    a, b = crop(np.random.default_rng(0), pixels[:10], target[:10])
    assert (b == IGNORED).sum() == 6 * 20 and (a[b == IGNORED] == [7, 8, 9]).all()
    larger = RandomCrop(16, 16, (2.0, 2.0), np.zeros(3, np.uint8), IGNORED)
    assert len(np.unique(larger(np.random.default_rng(0), pixels, target)[1])) < 16 * 16


def test_windows_of_one_class_are_drawn_again():
    target = np.zeros((40, 40), np.uint8)
    target[30:, 30:] = 1
    pixels = np.zeros((40, 40, 3), np.uint8)
    shares = {}
    for largest in (1.0, 0.75):
        crop = RandomCrop(16, 16, None, np.zeros(3, np.uint8), IGNORED, largest)
        masks = [crop(np.random.default_rng(seed), pixels, target)[1] for seed in range(200)]
        shares[largest] = np.mean([np.mean(mask == 0) < 0.75 for mask in masks])
    assert shares[0.75] > 2 * shares[1.0] > 0


def test_batches_do_not_depend_on_the_processes():
    pairs = [make_pair(np.random.default_rng(number)) for number in range(5)]
    crop = RandomCrop(16, 16, (0.5, 2.0), np.zeros(3, np.uint8), IGNORED, 0.75)

    def batches(rows) -> list:
        stream = CropStream(5, lambda index: pairs[index], crop, seed=3)
        return list(stream.batches(4, rows, 4))

    whole, first, second = batches(range(4)), batches(range(2)), batches(range(2, 4))
    for all_rows, upper, lower in zip(whole, first, second, strict=True):
        for name in ("image", "target"):
            parts = np.concatenate([upper[name], lower[name]])
            np.testing.assert_array_equal(all_rows[name], parts)
