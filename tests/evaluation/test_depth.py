"""dino-jax evaluate depth, on a small data set in the layout of NYU Depth V2."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import dino_jax
from dino_jax.evaluation.__main__ import main
from dino_jax.evaluation.depth import Range, depth_errors, expected_depth, sig_loss
from dino_jax.evaluation.linear_probe import patch_taker
from dino_jax.evaluation.protocols.depth import depth_layers
from tests.evaluation.test_multi_scale import plain_bilinear
from tests.saved_model import save_tiny_vit

RNG = np.random.default_rng(0)
SMALL = ("--crop", "30", "40", "--batch-size=8", "--lr=0.03", "--layers=1")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return save_tiny_vit(tmp_path_factory.mktemp("run"))


@pytest.fixture
def nyu(tmp_path) -> Path:
    """Rooms whose brightness tells the depth, 1 to 9 m; some pixels have none."""
    folder, rng = tmp_path / "nyu", np.random.default_rng(0)
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for number in range(12):
        (folder / f"room_{number % 3}").mkdir(parents=True, exist_ok=True)
        coarse = rng.uniform(1, 9, (3, 4)).astype(np.float32)
        depth = np.array(Image.fromarray(coarse).resize((52, 45), Image.Resampling.BILINEAR))
        gray = np.repeat((depth * 25)[..., None], 3, axis=-1).astype(np.uint8)
        name = f"room_{number % 3}/rgb_{number:05}.png", f"room_{number % 3}/depth_{number:05}.png"
        Image.fromarray(gray).save(folder / name[0])
        depth[:4, :6] = 0
        Image.fromarray((depth * 1000).astype(np.uint16)).save(folder / name[1])
        lines["test" if number % 4 == 3 else "train"].append(f"/{name[0]} /{name[1]} 518.8579")
    for part, rows in lines.items():
        (folder / f"nyu_{part}.txt").write_text("\n".join(rows) + "\n")
    return folder


def run(workdir, data, out, *options: str) -> dict:
    arguments = [f"--checkpoint={workdir}", f"--data={data}", f"--out={out}", "--no-eigen-crop"]
    assert main(["depth", *arguments, *SMALL, *options]) == 0
    return json.loads((out / "depth.json").read_text())


def test_brightness_is_learned_as_depth(workdir, nyu, tmp_path):
    untrained = run(workdir, nyu, tmp_path / "first", "--steps=1")["metrics"]
    result = run(workdir, nyu, tmp_path / "out", "--steps=150")
    assert result["metrics"]["rmse"] < 0.6 * untrained["rmse"]
    assert result["metrics"]["delta1"] > untrained["delta1"]
    assert 0 <= result["metrics"]["abs_rel"] < untrained["abs_rel"]
    settings = result["settings"]
    assert (settings["train_images"], settings["test_images"]) == (9, 3)
    assert settings["crop"] == [32, 40] and settings["bins"] == 256


def test_unreadable_images_are_left_out_and_named(workdir, nyu, tmp_path):
    lost = nyu / "room_1/rgb_00001.png", nyu / "room_1/depth_00007.png"
    for path in lost:
        path.write_bytes(b"no image")
    settings = run(workdir, nyu, tmp_path / "out", "--steps=3")["settings"]
    assert settings["unreadable_train"] == {"count": 1, "names": [str(lost[0])]}
    assert settings["unreadable_test"]["names"] == [str(nyu / "room_1/rgb_00007.png")]


def test_what_is_missing_or_does_not_fit_is_named(workdir, nyu, tmp_path, capsys):
    def fails(*options, data=nyu) -> str:
        arguments = (f"--checkpoint={workdir}", f"--data={data}", *SMALL, "--steps=2")
        with pytest.raises(SystemExit, match="2"):
            main(["depth", *arguments, *options])
        return capsys.readouterr().err

    assert "nyu_train.txt does not exist" in fails(data=tmp_path)
    assert "--layers=4: it must be 1, or 4 if there are at least 4 blocks" in fails("--layers=4")
    assert "argument --max-depth: must be above 0" in fails("--max-depth=0")
    assert "45 x 52 pixels, the Eigen crop is for 480 x 640" in fails()
    for path in (nyu / "room_0").glob("depth*"):
        Image.fromarray(np.full((9, 9), 1000, np.uint16)).save(path)
    assert "has 9 x 9 pixels" in fails()
    for path in (nyu / "room_0").glob("depth*"):
        Image.fromarray(np.full((45, 52), 7, np.uint8)).save(path)
    assert "has pixels of mode L" in fails()
    (nyu / "room_1/rgb_00001.png").unlink()
    assert "1 of 18 files are missing" in fails()
    (nyu / "nyu_train.txt").write_text("alone.png\n")
    assert "line 1: expected IMAGE DEPTH FOCAL, got 'alone.png'" in fails()
    (nyu / "nyu_train.txt").write_text("")
    assert "names no images" in fails()


def test_depth_is_the_expectation_over_bins_of_enlarged_features():
    tokens, kernel = RNG.normal(size=(2, 3, 6)), RNG.normal(size=(6, 8))
    large = plain_bilinear(tokens, 8, 12, (1 / 4, 1 / 4)) @ kernel
    weights = np.maximum(large, 0) + 0.1
    centers = 1.0 + np.arange(8) * (5.0 - 1.0) / 7
    expected = (weights / weights.sum(axis=-1, keepdims=True) * centers).sum(axis=-1)
    logits = jnp.asarray(tokens @ kernel, jnp.float32)[None]
    np.testing.assert_allclose(expected_depth(logits, Range(1.0, 5.0, 8))[0], expected, rtol=1e-5)


def test_the_loss_forgives_a_common_factor_in_part():
    predicted, truth = RNG.uniform(1, 9, (2, 4, 5)), RNG.uniform(1, 9, (2, 4, 5))
    truth[0, :2] = 0
    g = (np.log(predicted + 1e-3) - np.log(truth + 1e-3))[truth > 0]
    arrays = jnp.asarray(predicted, jnp.float32), jnp.asarray(truth, jnp.float32)
    late = np.sqrt(np.var(g, ddof=1) + 0.15 * np.mean(g) ** 2)
    np.testing.assert_allclose(sig_loss(*arrays, jnp.asarray(100)), late, rtol=1e-5)
    early = np.sqrt(0.15 * np.mean(g) ** 2)
    np.testing.assert_allclose(sig_loss(*arrays, jnp.asarray(99)), early, rtol=1e-5)
    assert np.isfinite(sig_loss(arrays[0], jnp.zeros((2, 4, 5)), jnp.asarray(500)))


def test_errors_count_only_known_depths():
    truth = np.array([[2.0, 4.0], [0.0, 5.0]])
    predicted = np.array([[2.4, 2.0], [9.0, 5.0]])
    errors = depth_errors(predicted, truth)
    assert errors["rmse"] == pytest.approx(np.sqrt((0.4**2 + 2**2 + 0) / 3))
    assert errors["abs_rel"] == pytest.approx((0.2 + 0.5 + 0) / 3)
    assert [errors[f"delta{i}"] for i in (1, 2, 3)] == pytest.approx([2 / 3, 2 / 3, 2 / 3])
    with pytest.raises(ValueError, match="no pixel has a depth"):
        depth_errors(predicted, truth * 0)


def test_the_official_blocks_and_tokens_are_taken(workdir):
    model = dino_jax.load(workdir)
    images = RNG.integers(0, 256, (1, 16, 24, 3), np.uint8)
    take = patch_taker((0, -1), normalize=False, with_cls=True)
    tokens = np.asarray(take(model.network, model.variables, images))
    first, last = model.network.apply(
        model.variables, images, (0, 1), normalize=False, method="intermediate"
    )
    for row, column in ((0, 0), (1, 2)):
        number = row * 3 + column
        parts = [x for f in (first, last) for x in (f["patches"][0, number], f["cls"][0])]
        np.testing.assert_allclose(tokens[0, row, column], np.concatenate(parts), atol=1e-5)
    large = model.network.clone(backbone=model.network.backbone.clone(depth=24))
    assert depth_layers(large, 4) == (4, 11, 17, 23) and depth_layers(large, 1) == (-1,)
