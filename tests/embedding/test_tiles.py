"""Grids of patches and the tiles that cover them."""

import itertools

import numpy as np
import pytest
from PIL import Image

from dino_jax.embedding.tiles import cut_into_tiles, fit_grid, merge_tiles, resize_to_grid


@pytest.mark.parametrize(
    ("size", "short_side", "grid"),
    [
        ((3000, 4000), None, (214, 286)),
        ((3000, 4000), 518, (37, 49)),
        ((4000, 3000), 518, (49, 37)),
        ((14, 14), None, (1, 1)),
        ((3, 5), None, (1, 1)),
        ((30, 3000), 14, (1, 100)),
    ],
)
def test_an_image_has_the_nearest_whole_number_of_patches(size, short_side, grid):
    assert fit_grid(size, 14, short_side) == grid


def test_an_image_of_whole_patches_is_left_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (28, 42, 3), np.uint8)
    assert resize_to_grid(image, (2, 3), 14) is image
    resized = resize_to_grid(image[:27], (2, 3), 14)
    expected = Image.fromarray(image[:27]).resize((42, 28), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(resized, np.asarray(expected))


@pytest.mark.parametrize("grid", [(5, 7), (16, 16), (17, 3), (40, 41), (214, 286)])
@pytest.mark.parametrize(("side", "overlap"), [(16, 0), (16, 4), (16, 15), (5, 2)])
def test_tiles_cover_every_patch_are_of_one_size_and_overlap(grid, side, overlap):
    tiles = cut_into_tiles(grid, side, overlap)
    assert {tile.grid for tile in tiles} == {(min(side, grid[0]), min(side, grid[1]))}
    covered = np.zeros(grid, int)
    for (top, left), (rows, columns) in tiles:
        assert top + rows <= grid[0] and left + columns <= grid[1]
        covered[top : top + rows, left : left + columns] += 1
    assert covered.min() >= 1
    for axis in range(2):
        starts = sorted({tile.start[axis] for tile in tiles})
        shared = [a + tiles[0].grid[axis] - b for a, b in itertools.pairwise(starts)]
        assert all(count >= overlap for count in shared)
        # None of them could be left out.
        assert len(starts) == 1 or (len(starts) - 1) * (side - overlap) < grid[axis] - overlap


def test_tiles_of_a_map_give_the_map_again():
    rng = np.random.default_rng(0)
    whole = rng.normal(size=(23, 31, 4)).astype(np.float32)
    tiles = cut_into_tiles((23, 31), 8, 3)
    parts = [whole[t : t + h, s : s + w] for (t, s), (h, w) in tiles]
    np.testing.assert_allclose(merge_tiles(tiles, parts, (23, 31)), whole, rtol=0, atol=1e-6)


def test_where_tiles_overlap_the_one_whose_edge_is_further_away_weighs_more():
    tiles = cut_into_tiles((1, 6), 4, 2)
    assert [tile.start for tile in tiles] == [(0, 0), (0, 2)]
    parts = [np.zeros((1, 4, 1), np.float32), np.ones((1, 4, 1), np.float32)]
    merged = merge_tiles(tiles, parts, (1, 6))[0, :, 0]
    # Weights 1 2 2 1, and the same two patches later: 1/(2+1) and 2/(1+2) of the second one.
    np.testing.assert_allclose(merged, [0, 0, 1 / 3, 2 / 3, 1, 1], rtol=1e-6)
