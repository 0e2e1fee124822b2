"""Features of files of many shapes."""

import numpy as np
import pytest
from PIL import Image

from dino_jax.evaluation import image_files
from dino_jax.evaluation.image_files import cut_to_patches, embed_files, read_values


@pytest.fixture
def files(tmp_path) -> list[str]:
    rng = np.random.default_rng(0)
    for number in range(14):
        shape = (8 + number % 5, 9 + number % 3, 3)
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(tmp_path / f"{number:02}.png")
    return [str(path) for path in sorted(tmp_path.iterdir())]


def views(number, pixels):
    return [pixels, pixels[:8, :8] + np.uint8(number)]


@pytest.mark.parametrize("waiting", (512, 3))
def test_every_view_has_its_row_whatever_waits(files, monkeypatch, waiting):
    monkeypatch.setattr(image_files, "MOST_WAITING", waiting)
    shapes = []

    def embed(images):
        shapes.append(images.shape)
        return images.reshape(len(images), -1)[:, :20].astype(np.float32)

    features, readable = embed_files(files, views, embed, 4, "test")
    assert readable.all() and features.shape == (2, 14, 20)
    for number, path in enumerate(files):
        seen = views(number, np.array(Image.open(path)))
        for view, image in enumerate(seen):
            np.testing.assert_array_equal(features[view, number], image.reshape(-1)[:20])
    assert {shape[0] for shape in shapes} == {4}


def test_images_are_held_back_only_so_long(files, monkeypatch):
    monkeypatch.setattr(image_files, "MOST_WAITING", 3)
    batches = []

    def embed(images):
        batches.append(len(np.unique(images.reshape(len(images), -1), axis=0)))
        return np.zeros((len(images), 1), np.float32)

    embed_files(files, lambda number, pixels: [pixels], embed, 100, "test")
    # One more than MOST_WAITING come together, in five times three shapes.
    assert len(batches) > 8 and sum(batches) == len(files)


def test_a_file_that_is_gone_is_an_error(files):
    with pytest.raises(FileNotFoundError):
        embed_files([*files, "/nowhere.png"], views, lambda x: x, 4, "test")
    with pytest.raises(ValueError, match="none of the 1 images can be read"):
        embed_files([__file__], views, lambda x: x, 4, "test")


def test_stored_numbers_are_read_as_they_are(tmp_path):
    depth = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    Image.fromarray(depth).save(tmp_path / "d.png")
    mode, values = read_values(tmp_path / "d.png")
    assert mode == "I;16"
    np.testing.assert_array_equal(values, depth)


def test_parts_of_patches_are_cut_off():
    image = np.arange(9 * 14 * 3).reshape(9, 14, 3)
    np.testing.assert_array_equal(cut_to_patches(image, 4), image[:8, :12])
    with pytest.raises(ValueError, match="9 x 14 pixels is smaller than a patch of 10"):
        cut_to_patches(image, 10)
