"""Features of all patches: whole images, tiles of large ones, batches of several images."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

import dino_jax
from dino_jax.embedding.dense import Picture, embed_pictures, make_patch_embedder
from dino_jax.embedding.tiles import cut_into_tiles
from tests.saved_model import save_tiny_vit

PATCH = 8


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return dino_jax.load(save_tiny_vit(tmp_path_factory.mktemp("run")))


@pytest.fixture(scope="module")
def embed(model):
    mesh = Mesh(np.array(jax.local_devices()[:2]).reshape(-1, 1), ("data", "fsdp"))
    return make_patch_embedder(model, mesh, layers=1, normalize=False)


def pixels_of(seed: int, rows: int, columns: int) -> np.ndarray:
    shape = (rows * PATCH, columns * PATCH, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def patches_of(model, pixels: np.ndarray) -> np.ndarray:
    """[h, w, D] of a whole image."""
    height, width = (count // PATCH for count in pixels.shape[:2])
    return np.asarray(model(pixels[None])["patches"][0]).reshape(height, width, -1)


def run(images, embed, side: int, overlap: int = 0):
    pictures = [Picture(image, number) for number, image in enumerate(images)]
    sizes = dict(side=side, overlap=overlap, batch_size=4)
    return list(embed_pictures(iter(pictures), embed, PATCH, **sizes))


def test_images_of_any_sizes_have_the_features_of_the_model_in_their_order(model, embed):
    grids = [(8, 8), (3, 11), (8, 8), (1, 1), (11, 3), (8, 8), (3, 11)]
    images = [pixels_of(seed, *grid) for seed, grid in enumerate(grids)]
    found = run(images, embed, side=11)
    assert [key for key, _ in found] == list(range(len(images)))
    for (_, features), image in zip(found, images, strict=True):
        np.testing.assert_allclose(features, patches_of(model, image), rtol=0, atol=2e-5)


def test_a_large_image_is_the_weighted_mean_of_its_tiles(model, embed):
    image = pixels_of(0, 10, 13)
    ((_, features),) = run([image], embed, side=6, overlap=2)
    sums, weights = 0, 0
    tiles = cut_into_tiles((10, 13), 6, 2)
    assert len(tiles) == 2 * 3
    for (top, left), (rows, columns) in tiles:
        cut = image[top * PATCH : (top + rows) * PATCH, left * PATCH : (left + columns) * PATCH]
        place = ((top, 10 - top - rows), (left, 13 - left - columns))
        tent = np.minimum(np.arange(1, 7), np.arange(6, 0, -1))
        weight = np.pad(np.outer(tent, tent), place)[..., None]
        sums = sums + weight * np.pad(patches_of(model, cut), (*place, (0, 0)))
        weights = weights + weight
    np.testing.assert_allclose(features, sums / weights, rtol=0, atol=3e-5)


def test_an_image_whose_tiles_wait_does_not_hold_up_more_than_some_batches(embed):
    """A small image at the start of many of another size is not kept until the end."""
    seen = []

    def pictures():
        for number in range(40):
            seen.append(number)
            yield Picture(pixels_of(number, *((2, 3) if number == 0 else (3, 3))), number)

    stream = embed_pictures(pictures(), embed, PATCH, side=9, overlap=0, batch_size=4)
    first, _ = next(stream)
    assert first == 0 and len(seen) <= 4 * 4 + 5
    assert [key for key, _ in stream] == list(range(1, 40))


def test_layers_are_concatenated_and_vectors_may_have_length_1(model):
    mesh = Mesh(np.array(jax.local_devices()[:1]).reshape(-1, 1), ("data", "fsdp"))
    image = pixels_of(0, 5, 7)
    both = model.intermediate(image[None], [0, 1])
    expected = np.concatenate([np.asarray(each["patches"][0]) for each in both], axis=-1)
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    two = make_patch_embedder(model, mesh, layers=2, normalize=True)
    ((_, features),) = run([image], two, side=9)
    np.testing.assert_allclose(features.reshape(35, -1), expected, rtol=0, atol=1e-5)
