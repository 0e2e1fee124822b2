"""Attention and patch PCA as pictures: pure functions of arrays."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.decomposition import PCA

from dino_jax.visualize.attention import cls_to_patches, draw_attention, overlay_attention
from dino_jax.visualize.patch_pca import align_signs, patch_pca, scores_to_rgb
from dino_jax.visualize.pictures import BACKGROUND, HEAT, apply_heat, enlarge, overlay, tile_row


def test_heat_goes_through_its_colors_and_gets_lighter():
    at_stops = apply_heat(np.linspace(0, 1, len(HEAT)))
    np.testing.assert_array_equal(at_stops, HEAT)
    between = apply_heat(np.array([0.5 / (len(HEAT) - 1), -1.0, 2.0]))
    np.testing.assert_allclose(between[0], (HEAT[0] + HEAT[1]) / 2, atol=0.5)
    np.testing.assert_array_equal(between[1:], HEAT[[0, -1]])
    luminance = apply_heat(np.linspace(0, 1, 100)) @ (0.2126, 0.7152, 0.0722)
    assert np.all(np.diff(luminance) > 0)


def test_enlarging_repeats_pixels():
    small = np.arange(6, dtype=np.uint8).reshape(2, 3)
    np.testing.assert_array_equal(enlarge(small, 4, 9), small.repeat(2, 0).repeat(3, 1))


def test_an_overlay_mixes_gray_and_color():
    image = np.full((4, 4, 3), (10, 20, 60), np.uint8)
    colors = np.full((2, 2, 3), (100, 0, 200), np.uint8)
    mixed = overlay(image, colors, opacity=0.25)
    np.testing.assert_array_equal(mixed[0, 0], np.round(0.75 * 30 + 0.25 * colors[0, 0]))
    assert mixed.shape == image.shape


def test_tiles_stand_side_by_side_with_a_gap():
    row = tile_row([np.full((3, 3, 3), level, np.uint8) for level in (7, 9)], gap=2)
    np.testing.assert_array_equal(row[0, :, 0], [7, 7, 7, BACKGROUND, BACKGROUND, 9, 9, 9])


@pytest.mark.parametrize("backend", [np, jnp])
def test_attention_to_patches_leaves_out_cls_and_registers(backend):
    heads, registers, grid = 2, 3, (2, 4)
    tokens = 1 + registers + 8
    attention = np.random.default_rng(0).random((5, heads, tokens, tokens))
    maps = cls_to_patches(backend.asarray(attention), grid)
    assert maps.shape == (5, heads, *grid)
    for row, column in ((0, 0), (1, 3)):
        expected = attention[:, :, 0, 1 + registers + 4 * row + column]
        np.testing.assert_allclose(maps[:, :, row, column], expected, rtol=1e-6)


def test_the_largest_attention_of_each_map_is_the_brightest():
    maps = np.array([[[0.0, 0.2]], [[0.01, 0.005]]], np.float32)
    colors = draw_attention(maps)
    np.testing.assert_array_equal(colors[0, 0, 1], HEAT[-1])
    np.testing.assert_array_equal(colors[1, 0, 0], HEAT[-1])
    np.testing.assert_array_equal(colors[0, 0, 0], HEAT[0])
    assert np.all(draw_attention(np.zeros((2, 2))) == HEAT[0])
    assert overlay_attention(np.zeros((8, 8, 3), np.uint8), maps[0]).shape == (8, 8, 3)


def test_principal_components_are_those_of_scikit_learn_up_to_the_sign():
    features = np.random.default_rng(0).normal(size=(3, 4, 5, 16)) * np.linspace(3, 0.1, 16)
    ours = patch_pca(features)
    theirs = PCA(3).fit(features.reshape(-1, 16))
    scores = theirs.transform(features.reshape(-1, 16))
    flat = ours.scores.reshape(-1, 3)
    np.testing.assert_allclose(np.abs(flat), np.abs(scores), atol=1e-5)
    np.testing.assert_allclose(ours.explained, theirs.explained_variance_ratio_, rtol=1e-6)
    assert np.all(flat[np.abs(flat).argmax(axis=0), range(3)] > 0)


def test_signs_follow_the_reference():
    scores = np.random.default_rng(0).normal(size=(2, 4, 4, 3))
    noisy = scores * (1, -1, -1) + np.random.default_rng(1).normal(size=scores.shape) / 10
    np.testing.assert_array_equal(align_signs(noisy, scores), noisy * (1, -1, -1))


def test_components_fill_the_range_of_their_color():
    scores = np.stack([np.linspace(-3, 5, 200), np.zeros(200), np.arange(200)], axis=-1)
    colors = scores_to_rgb(scores.reshape(2, 10, 10, 3)).reshape(200, 3)
    assert (colors[:, 0].min(), colors[:, 0].max()) == (0, 255)
    assert set(colors[:, 1]) == {128}
    assert np.all(np.diff(colors[:, 2].astype(int)) >= 0)


def test_features_of_equal_patches_give_finite_gray():
    pca = patch_pca(np.ones((2, 3, 3, 8), np.float32))
    assert np.all(np.isfinite(pca.scores)) and np.all(np.isfinite(pca.explained))
