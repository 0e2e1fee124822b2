"""dino-jax evaluate video_segmentation, on small videos in the layout of DAVIS."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dino_jax
from configs import quickstart
from dino_jax.evaluation.__main__ import main
from dino_jax.evaluation.davis import frame_size, palette, read_mask, write_mask
from tests.evaluation.test_mask_measures import plain_contour_accuracy
from tests.evaluation.test_multi_scale import plain_bilinear
from tests.evaluation.test_propagation import plain_propagate
from tests.run_train import run_processes
from tests.saved_model import save_model

FRAMES, HEIGHT, WIDTH = 5, 36, 70
PATCH = 4


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    config = quickstart.get_config()
    config.network.backbone.update(embed_dim=24, depth=1, patch_size=PATCH)
    return save_model(tmp_path_factory.mktemp("run"), config)


@pytest.fixture
def davis(tmp_path) -> Path:
    """Two videos: one object that walks, and two of which one goes away."""
    folder, rng = tmp_path / "DAVIS", np.random.default_rng(0)
    (folder / "ImageSets/2017").mkdir(parents=True)
    (folder / "ImageSets/2017/val.txt").write_text("walk\npair\n")
    for name in ("walk", "pair"):
        background = rng.integers(0, 120, (HEIGHT, WIDTH, 3), np.uint8)
        for frame in range(FRAMES):
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            mask[8:24, 6 + 3 * frame : 26 + 3 * frame] = 1
            if name == "pair":
                mask[20:34, 40 + 9 * frame : 60 + 9 * frame] = 2
            pixels = background + np.array([[0, 0, 0], [120, 0, 40], [0, 130, 0]], np.uint8)[mask]
            for kind, suffix in (("JPEGImages", "jpg"), ("Annotations", "png")):
                path = folder / kind / "480p" / name / f"{frame:05}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                if suffix == "png":
                    write_mask(path, mask)
                else:
                    Image.fromarray(pixels).save(path, quality=95)
    return folder


def run(workdir, data, out, *options: str) -> dict:
    arguments = [f"--checkpoint={workdir}", f"--data={data}", f"--out={out}"]
    options = ("--short-side=33", "--frames=2", "--radius=3", *options)
    assert main(["video_segmentation", *arguments, *options]) == 0
    return json.loads((out / "video_segmentation.json").read_text())


def plain_masks(model, folder, name, std) -> list[np.ndarray]:
    """Predicted masks of all frames but the first, patch by patch; 33 pixels are 32, 64 are 64."""
    features = []
    for path in sorted((folder / "JPEGImages/480p" / name).iterdir()):
        pixels = np.asarray(Image.open(path).convert("RGB"), np.float64)
        small = np.rint(plain_bilinear(pixels, 32, 64, (HEIGHT / 32, WIDTH / 64))) / 255
        image = ((small - (0.485, 0.456, 0.406)) / std).astype(np.float32)
        features.append(np.asarray(model(image[None])["patches"][0]).reshape(8, 16, -1))
    truth = np.array(Image.open(folder / "Annotations/480p" / name / "00000.png"))
    small = np.array(Image.fromarray(truth).resize((16, 8), Image.Resampling.NEAREST))
    known = [np.eye(small.max() + 1)[small]]
    masks = []
    for frame in range(1, len(features)):
        used = [0, *range(max(1, frame - 2), frame)]
        sources, labels = (np.stack([x[i] for i in used]) for x in (features, known))
        known.append(plain_propagate(features[frame], sources, labels, 3, 5, 0.1))
        large = plain_bilinear(known[-1], 32, 64, (1 / PATCH, 1 / PATCH))
        for channel in np.moveaxis(large, -1, 0):
            channel -= channel.min()
            channel /= channel.max() or 1
        mask = Image.fromarray(large.argmax(-1).astype(np.uint8))
        masks.append(np.array(mask.resize((WIDTH, HEIGHT), Image.Resampling.NEAREST)))
    return masks


@pytest.mark.parametrize("reference", (False, True))
def test_masks_and_scores_are_those_of_a_plain_propagation(workdir, davis, tmp_path, reference):
    out = tmp_path / "out"
    options = [f"--masks={out / 'masks'}"] + ["--reference"] * reference
    result = run(workdir, davis, out, *options)
    model = dino_jax.load(workdir)
    std = (0.228 if reference else 0.229, 0.224, 0.225)
    objects: dict[str, list] = {"J": [], "F": []}
    for name, count in (("walk", 1), ("pair", 2)):
        expected = plain_masks(model, davis, name, std)
        written = [read_mask(str(p)) for p in sorted((out / "masks" / name).iterdir())]
        assert len(written) == FRAMES - 1
        wrong = [np.mean(a != b) for a, b in zip(written, expected, strict=True)]
        assert max(wrong) < 0.01  # ties between objects may go either way
        for number in range(1, count + 1):
            values: dict[str, list] = {"J": [], "F": []}
            for frame in range(1, FRAMES - 1):
                truth = read_mask(str(davis / "Annotations/480p" / name / f"{frame:05}.png"))
                a, b = written[frame - 1] == number, truth == number
                values["J"].append((a & b).sum() / (a | b).sum() if (a | b).any() else 1.0)
                values["F"].append(
                    plain_contour_accuracy(a, b, 0.008)
                    if a.any() and b.any()
                    else a.any() == b.any()
                )
            for measure, numbers in values.items():
                objects[measure].append((np.mean(numbers), np.mean(np.array(numbers) > 0.5)))
    for measure, rows in objects.items():
        mean, recall = 100 * np.mean(rows, axis=0)
        assert result["metrics"][f"{measure}_mean"] == pytest.approx(mean, abs=1e-6)
        assert result["metrics"][f"{measure}_recall"] == pytest.approx(recall, abs=1e-6)
    both = result["metrics"]["J_mean"] + result["metrics"]["F_mean"]
    assert result["metrics"]["J&F_mean"] == pytest.approx(both / 2)
    assert (result["settings"]["videos"], result["settings"]["objects"]) == (2, 3)
    assert result["metrics"]["J_mean"] > 40  # colors alone tell these objects apart


def test_a_video_with_an_unreadable_frame_is_left_out_and_named(workdir, davis, tmp_path):
    whole = run(workdir, davis, tmp_path / "whole", "--split=val")
    (davis / "JPEGImages/480p/pair/00003.jpg").write_bytes(b"\xff\xd8\xff no image")
    settings = run(workdir, davis, tmp_path / "out")["settings"]
    assert settings["unreadable"] == ["pair"]
    assert (settings["videos"], settings["objects"]) == (1, 1)
    assert whole["settings"]["unreadable"] == []


def test_two_processes_share_the_videos(workdir, davis, tmp_path):
    one = run(workdir, davis, tmp_path / "one", f"--masks={tmp_path / 'masks_one'}")
    options = ("--short-side=33", "--frames=2", "--radius=3", f"--out={tmp_path / 'two'}")
    command = ("video_segmentation", f"--checkpoint={workdir}", f"--data={davis}", *options)
    masks = f"--masks={tmp_path / 'masks_two'}"
    finished = run_processes(*command, masks, processes=2, devices=2, module="dino_jax.evaluation")
    assert [process.code for process in finished] == [0, 0], finished
    two = json.loads((tmp_path / "two/video_segmentation.json").read_text())
    assert two["metrics"] == pytest.approx(one["metrics"], abs=1.0)  # ties may go either way
    assert two["settings"] == one["settings"]
    names = [
        sorted(p.relative_to(tmp_path / f"masks_{n}") for p in tmp_path.glob(f"masks_{n}/*/*.png"))
        for n in ("one", "two")
    ]
    assert names[0] == names[1] and len(names[0]) == 2 * (FRAMES - 1)


def test_what_is_missing_or_does_not_fit_is_named(workdir, davis, tmp_path, capsys):
    def fails(*options, data=davis) -> str:
        small = (f"--checkpoint={workdir}", f"--data={data}", "--short-side=33", "--radius=3")
        with pytest.raises(SystemExit, match="2"):
            main(["video_segmentation", *small, *options])
        return capsys.readouterr().err

    assert "ImageSets/2017/val.txt does not exist" in fails(data=tmp_path)
    assert "test.txt does not exist" in fails("--split=test")
    assert "--frames: must be at least 1" in fails("--frames=0")
    masks, frame = davis / "Annotations/480p/walk", davis / "JPEGImages/480p/walk/00003.jpg"
    usual = frame.read_bytes()
    Image.new("RGB", (40, 30)).save(frame)
    assert "00003.jpg has 30 x 40 pixels, the first mask of this video 36 x 70" in fails()
    frame.write_bytes(usual)
    write_mask(masks / "00002.png", np.zeros((10, 10), np.uint8))
    assert "00002.png has 10 x 10 pixels, the first mask of this video 36 x 70" in fails()
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(masks / "00002.png")
    assert "has pixels of mode RGB" in fails()
    write_mask(masks / "00000.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    assert "shows no objects" in fails()
    (masks / "00004.png").unlink()
    assert "has 5 frames and 4 masks" in fails()
    (davis / "ImageSets/2017/val.txt").write_text("nobody\n")
    assert "JPEGImages/480p/nobody does not exist" in fails()
    (davis / "ImageSets/2017/val.txt").write_text("")
    assert "names no videos" in fails()


def test_frames_have_the_official_sizes():
    assert frame_size(480, 854, 480, 16) == (480, 832)
    assert frame_size(480, 910, 480, 8) == (480, 896)
    assert frame_size(1920, 1080, 480, 16) == (832, 480)
    assert frame_size(480, 854, 480, 14) == (476, 826)


def test_masks_are_indexed_png_with_the_colors_of_voc(tmp_path):
    mask = np.arange(12, dtype=np.uint8).reshape(3, 4)
    write_mask(tmp_path / "a" / "m.png", mask)
    with Image.open(tmp_path / "a" / "m.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.array(image), mask)
        colors = np.array(image.convert("RGB"))
    # PASCAL VOC: background, aeroplane, bicycle, bird; then boat.
    expected = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]
    np.testing.assert_array_equal(colors[0], expected)
    np.testing.assert_array_equal(palette()[[5, 8]], [(128, 0, 128), (64, 0, 0)])
