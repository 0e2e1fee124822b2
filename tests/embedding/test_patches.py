"""`dino-jax embed --tokens=patches` as a user runs it."""

import json

import numpy as np
import pytest
from PIL import Image

import dino_jax
from dino_jax.embedding.__main__ import main
from tests.saved_model import save_tiny_vit

PATCH = 8
SIZES = [(40, 56), (56, 40), (33, 70), (8, 8), (90, 120)]  # (height, width)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return save_tiny_vit(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Images of `SIZES`; the third and the last file cannot be read."""
    folder = tmp_path_factory.mktemp("photos")
    for index, size in enumerate(SIZES):
        pixels = np.random.default_rng(index).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    (folder / "1b.png").write_bytes(b"no image")
    (folder / "9.png").write_bytes(b"no image")
    return folder


def run(workdir, photos, out, *options: str) -> int:
    arguments = [str(workdir), str(photos), f"--out={out}", "--tokens=patches", *options]
    batch = [] if any(x.startswith("--batch-size") for x in options) else ["--batch-size=4"]
    return main([*arguments, *batch])


def read(out) -> dict[str, np.ndarray]:
    """[h, w, D] by name, with NumPy and JSON alone, as the docstring of the files says."""
    found = {}
    for index in sorted(out.glob("images-*.jsonl")):
        rows = np.load(str(index).replace("images-", "patches-").replace(".jsonl", ".npy"))
        for line in map(json.loads, index.read_text().splitlines()):
            count = line["grid"][0] * line["grid"][1]
            part = rows[line["first"] : line["first"] + count]
            found[line["name"]] = part.reshape(*line["grid"], -1)
    return found


def whole(workdir, photos, name: str, height: int, width: int) -> np.ndarray:
    """The features of a whole image in another size."""
    image = Image.open(photos / name).resize((width, height), Image.Resampling.BICUBIC)
    patches = dino_jax.load(workdir)(np.asarray(image)[None])["patches"][0]
    return np.asarray(patches).reshape(height // PATCH, width // PATCH, -1)


def test_every_readable_image_has_the_features_of_its_own_size(workdir, photos, tmp_path, capsys):
    options = ("--own-size", "--dtype=float32", "--shard-images=3")
    assert run(workdir, photos, tmp_path / "out", *options) == 0
    said = capsys.readouterr().out
    assert "patches of 5 images in 3 shards; 2 images could not be read" in said
    found = read(tmp_path / "out")
    assert list(found) == [f"{index}.png" for index in range(5)]
    sizes = [(40, 56), (56, 40), (32, 72), (8, 8), (88, 120)]  # whole patches
    for name, (height, width) in zip(found, sizes, strict=True):
        expected = whole(workdir, photos, name, height, width)
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=2e-5, err_msg=name)
    lost = [path.read_text() for path in sorted((tmp_path / "out").glob("unreadable-*"))]
    assert lost == [f"{photos}/1b.png\n", f"{photos}/9.png\n"]


def test_the_short_side_is_resized_and_halves_are_stored(workdir, photos, tmp_path):
    assert run(workdir, photos, tmp_path / "out", "--image-size=24") == 0
    found = read(tmp_path / "out")
    grids = [features.shape[:2] for features in found.values()]
    assert grids == [(3, 4), (4, 3), (3, 6), (3, 3), (3, 4)]
    assert {features.dtype for features in found.values()} == {np.dtype(np.float16)}
    expected = whole(workdir, photos, "4.png", 24, 32)
    np.testing.assert_allclose(found["4.png"], expected, rtol=0, atol=3e-3)


def test_tiles_of_a_large_image_are_close_to_the_whole(workdir, photos, tmp_path):
    """As close as the context allows: nearer than another image, and equal where one tile fits."""
    options = ("--own-size", "--dtype=float32")
    run(workdir, photos, tmp_path / "whole", *options)
    run(workdir, photos, tmp_path / "tiles", *options, "--tile=64", "--overlap=16")
    expected, found = read(tmp_path / "whole"), read(tmp_path / "tiles")
    np.testing.assert_allclose(found["0.png"], expected["0.png"], rtol=0, atol=2e-5)
    large, other = expected["4.png"], np.roll(expected["4.png"], 3, axis=(0, 1))
    assert np.abs(found["4.png"] - large).mean() < 0.2 * np.abs(other - large).mean()
    assert not np.array_equal(found["4.png"], large)


def test_what_is_there_is_not_made_again_and_other_options_are_refused(
    workdir, photos, tmp_path, capsys
):
    out = tmp_path / "out"
    assert run(workdir, photos, out, "--image-size=24", "--shard-images=3") == 0
    first, second, _ = sorted(out.glob("patches-*.npy"))
    before = (first.stat().st_mtime_ns, second.read_bytes())
    second.unlink()
    assert run(workdir, photos, out, "--image-size=24", "--shard-images=3") == 0
    assert (first.stat().st_mtime_ns, second.read_bytes()) == before
    with pytest.raises(SystemExit, match="2"):
        run(workdir, photos, out, "--image-size=32", "--shard-images=3")
    assert "image_size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--reduce=pca"], "--reduce is not for --tokens=patches"),
        (["--format=parquet"], "--format is not for --tokens=patches"),
        (["--own-size", "--image-size=32"], "--own-size and --image-size=32 exclude each other"),
        (["--overlap=384"], "--overlap=384 must be smaller than --tile=384 by a patch of 8 pixels"),
        (["--tile=16384"], "--tile=16384: the attention of one image takes"),
        (["--batch-size=100000"], "the attention of --batch-size=100000 tiles of --tile=384 takes"),
        (["--tile=64", "--overlap=57"], "--overlap=57 must be smaller than --tile=64"),
        (["--tile=7"], "--tile=7 is smaller than one patch of 8 pixels"),
        (["--image-size=5"], "--image-size=5 is smaller than one patch of 8 pixels"),
        (["--tokens=cls", "--tile=64"], "--tile is not for --tokens=cls"),
        (["--tokens=cls", "--dim=9"], "--dim=9 needs --reduce=pca or --reduce=random"),
    ],
)
def test_options_that_do_not_fit_are_refused_and_leave_nothing(
    options, words, workdir, photos, tmp_path, capsys
):
    with pytest.raises(SystemExit, match="2"):
        run(workdir, photos, tmp_path / "out", *options)
    assert f"error: {words}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
