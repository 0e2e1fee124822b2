"""dino-jax visualize, with a backbone whose features are known."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import digits_resnet, quickstart
from dino_jax.visualize import __main__ as command
from dino_jax.visualize.attention import keep_mass
from dino_jax.visualize.foreground import color_objects, find_objects, otsu_threshold
from dino_jax.visualize.inputs import bound_size, fit_to_patches
from dino_jax.visualize.pictures import BACKGROUND, CAPTION, mark_patch, tile_rows
from dino_jax.visualize.similarity import cosine_map, patch_at
from tests.embedding.test_command import save_model

PATCH = 8


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):

    config = quickstart.get_config()
    config.network.backbone.update(embed_dim=24, depth=1)
    return save_model(tmp_path_factory.mktemp("run"), config)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, shape in (("a", (40, 64, 3)), ("b", (60, 40, 3)), ("c", (48, 48, 3))):
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / f"{name}.png")
    return folder


def run(what, workdir, *arguments) -> int:
    return command.main([what, str(workdir), *map(str, arguments)])


def open_picture(path) -> np.ndarray:
    return np.array(Image.open(path))


def test_attention_gives_a_sheet_for_every_image_of_any_shape(workdir, photos, tmp_path, capsys):
    assert run("attention", workdir, photos, f"--out={tmp_path / 'out'}", "--size=32") == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["000_a_attention.png", "001_b_attention.png", "002_c_attention.png"]
    assert len(capsys.readouterr().out.splitlines()) == 3
    # 32 x 51 pixels are cut to 32 x 48 and shown three times as large: 3 tiles, 3 heads.
    picture = open_picture(tmp_path / "out/000_a_attention.png")
    assert picture.shape == (2 * (96 + CAPTION) + 4, 3 * 144 + 2 * 4, 3)
    assert (picture[96 : 96 + CAPTION] > 200).any()  # text
    shown = np.array(Image.open(photos / "a.png").resize((51, 32), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(picture[0:96:3, 0:144:3], shown[:, 1:49])


def test_pca_and_similar_patches_give_a_row_for_every_image(workdir, photos, tmp_path):
    out = tmp_path / "out"
    assert run("pca", workdir, photos, f"--out={out}", "--size=32") == 0
    assert open_picture(out / "pca.png").shape[0] == 96 + 4 + 144 + 4 + 96
    arguments = (photos / "c.png", photos / "a.png", f"--out={out}", "--size=32", "--point=9,17")
    assert run("similar_patches", workdir, *arguments) == 0
    picture = open_picture(out / "similar_patches.png")
    patch = picture[48:72, 24:48]  # row 2, column 1, three times as large
    assert (patch[0] == 255).all() and (patch[-1] == 255).all() and (patch[:, 0] == 255).all()


def test_neighbours_finds_the_image_itself_first(workdir, photos, tmp_path):
    arguments = (photos / "b.png", f"--out={tmp_path / 'out'}", f"--gallery={photos}", "--k=2")
    assert run("neighbours", workdir, *arguments, "--as-seen") == 0
    picture = open_picture(tmp_path / "out/neighbours.png")
    assert picture.shape == (96 + 18, 3 * 96 + 2 * 4, 3)
    np.testing.assert_array_equal(picture[:96, :96], picture[:96, 100:196])
    assert (picture[:96, :96] != picture[:96, 200:]).any()


def test_neighbours_are_shown_as_photographs_with_names(workdir, tmp_path):
    gallery, rng = tmp_path / "gallery", np.random.default_rng(0)
    gallery.mkdir()
    for name, (height, width) in {"wide": (300, 900), "high": (400, 200), "b": (40, 60)}.items():
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(gallery / f"{name}.png")
    out = tmp_path / "out"
    arguments = (gallery / "b.png", f"--out={out}", f"--gallery={gallery}", "--k=3")
    assert run("neighbours", workdir, *arguments) == 0
    picture = open_picture(out / "neighbours.png")
    # 160 pixels of the short side; 900 x 300 is cut to 320 x 160.
    assert picture.shape == (320 + 18, 240 + 240 + 320 + 160 + 3 * 4, 3)
    np.testing.assert_array_equal(picture[:160, :240], picture[:160, 244:484])
    assert (picture[160:320, :240] == 24).all()
    texts = picture[320:]
    assert (texts[:, :240] != 24).any() and (texts[:, 244:484] != 24).any()


@pytest.mark.parametrize(
    ("what", "options", "message"),
    [
        ("attention", ("--size=4",), "smaller than a patch of 8"),
        ("attention", ("--mass=0",), "--mass: must be above 0, got 0.0"),
        ("similar_patches", (), "needs --point=X,Y in pixels"),
        ("similar_patches", ("--point=1;2",), "got '1;2'"),
        ("similar_patches", ("--point=900,2",), "--point=900,2 is outside of the image"),
        ("neighbours", (), "needs --gallery=FOLDER"),
        ("neighbours", ("--gallery=/nowhere",), "/nowhere"),
    ],
)
def test_wrong_values_are_named(workdir, photos, tmp_path, capsys, what, options, message):
    with pytest.raises(SystemExit, match="2"):
        run(what, workdir, photos, f"--out={tmp_path / 'out'}", *options)
    assert message in capsys.readouterr().err


def test_unreadable_images_are_left_out_and_named(workdir, photos, tmp_path, capsys):
    (photos / "b.png").write_bytes(b"no image")
    assert run("attention", workdir, photos, f"--out={tmp_path / 'out'}", "--size=32") == 0
    assert "unreadable image, left out: " in capsys.readouterr().err
    assert len(list((tmp_path / "out").iterdir())) == 2
    for path in (Path("nowhere.png"), photos / "b.png"):
        with pytest.raises(SystemExit, match="2"):
            run("pca", workdir, path, f"--out={tmp_path / 'out'}")
    error = capsys.readouterr().err
    assert "there is no image or folder 'nowhere.png'" in error
    assert "no image can be read" in error


def test_the_mass_is_kept_as_the_official_code_does_it():
    attention = np.array([[0.1, 0.4], [0.2, 0.3]])
    # Ascending 0.1 0.2 0.3 0.4, summed 0.1 0.3 0.6 1.0; beyond 1 - 0.6 are the last two.
    np.testing.assert_array_equal(keep_mass(attention, 0.6), [[False, True], [False, True]])
    stacked = keep_mass(np.stack([attention, attention[::-1]]), 0.3)
    np.testing.assert_array_equal(stacked[0], [[False, True], [False, False]])
    np.testing.assert_array_equal(stacked[1], stacked[0][::-1])
    assert keep_mass(attention, 1.0).all()


def test_objects_are_what_touches_the_border_less():
    rng = np.random.default_rng(0)
    images = []
    for height, width in ((6, 8), (7, 5)):
        image = rng.normal(size=(height, width, 5)) * 0.01
        image[2:4, 2:4, 0] += 3
        image[2:4, 2, 1] += 1
        images.append(image)
    for sign in (1, -1):
        colors = color_objects([sign * image for image in images])
        for color in colors:
            kept = color.any(axis=-1)
            assert kept[2:4, 2:4].all() and kept.sum() == 4
            assert (color[2:4, 2] != color[2:4, 3]).any()


def test_otsu_splits_two_heaps_between_them():
    values = np.concatenate([np.full(30, 1.0), np.full(10, 5.0)])
    assert 1 < otsu_threshold(values) <= 5
    border = np.arange(40) < 30
    np.testing.assert_array_equal(find_objects(values, border), ~border)
    np.testing.assert_array_equal(find_objects(values, ~border), border)


def test_cosines_and_the_patch_below_a_point():
    features = np.array([[[1.0, 0.0], [0.0, 2.0]], [[3.0, 3.0], [0.0, 0.0]]])
    expected = [[1, 0], [np.sqrt(0.5), 0]]
    np.testing.assert_allclose(cosine_map(features, np.array([2.0, 0.0])), expected, atol=1e-6)
    assert patch_at((17, 8), (32, 40), PATCH) == (1, 2)
    assert patch_at((39, 31), (32, 40), PATCH) == (3, 4)
    with pytest.raises(ValueError, match="width is 40 and height 32"):
        patch_at((40, 0), (32, 40), PATCH)


def test_images_are_cut_to_whole_patches_around_the_center():
    image = np.arange(19 * 21 * 3, dtype=np.uint16).astype(np.uint8).reshape(19, 21, 3)
    np.testing.assert_array_equal(fit_to_patches(image, 0, 8), image[1:17, 2:18])
    assert fit_to_patches(image, 38, 8).shape == (32, 40, 3)
    with pytest.raises(ValueError, match="19 x 21 pixels is smaller than a patch of 32"):
        fit_to_patches(image, 0, 32)


@pytest.mark.parametrize("size", [0, 16, 480])
@pytest.mark.parametrize("shape", [(1024, 32), (32, 1024), (3000, 4000), (17, 900), (100, 100)])
def test_no_image_has_more_patches_than_the_bound(shape, size):
    image = np.zeros((*shape, 3), np.uint8)
    seen = fit_to_patches(image, bound_size(shape, size, 8, 2000), 8)
    assert seen.shape[0] // 8 * (seen.shape[1] // 8) <= 2000
    assert bound_size(shape, size, 8, 10**9) == size  # nothing changes without need
    with pytest.raises(ValueError, match="too elongated"):
        bound_size((8, 100_000), size, 8, 2000)


def test_an_elongated_image_is_drawn_smaller_and_said(workdir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("dino_jax.weights.limits.PICTURE_BYTES", 4.0 * 3 * 400**2)  # 400 patches
    Image.fromarray(np.zeros((1024, 32, 3), np.uint8)).save(tmp_path / "long.png")
    for what in ("attention", "pca"):
        assert run(what, workdir, tmp_path / "long.png", f"--out={tmp_path / what}") == 0
        assert "long: 1024 x 32 pixels with --size=69 are more than 400 " in capsys.readouterr().err
    assert open_picture(tmp_path / "attention/000_long_attention.png").shape[0] > 200


def test_rows_of_different_widths_are_filled_up():
    tiles = [np.full((4, width, 3), 200, np.uint8) for width in (5, 3)]
    picture = tile_rows([[tiles[0]], [tiles[1]]], gap=2)
    assert picture.shape == (10, 5, 3)
    assert (picture[4:6] == BACKGROUND).all() and (picture[6:, 3:] == BACKGROUND).all()
    marked = mark_patch(np.zeros((16, 16, 3), np.uint8), 1, 1, 8)
    assert (marked[8, 8:16] == 255).all() and (marked[10:14, 10:14] == 0).all()


def test_a_resnet_has_no_attention(tmp_path, photos, capsys):

    config = digits_resnet.get_config()
    folder = tmp_path / "run"
    folder.mkdir()
    save_model(folder, config)
    with pytest.raises(SystemExit, match="2"):
        run("attention", folder, photos, f"--out={tmp_path / 'out'}")
    assert "a ResNet has no attention weights" in capsys.readouterr().err
