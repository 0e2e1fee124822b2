"""Several scales of an image, resized as torch does it."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from dino_jax.evaluation.bilinear import bilinear_matrix, rescale, resize
from dino_jax.evaluation.multi_scale import SCALES, combine_scales, multi_scale_features


def plain_bilinear(image: np.ndarray, height: int, width: int, steps) -> np.ndarray:
    """Pixel by pixel."""
    result = np.zeros((height, width, image.shape[2]))
    for y in range(height):
        for x in range(width):
            source = [max((d + 0.5) * step - 0.5, 0) for d, step in zip((y, x), steps, strict=True)]
            for dy in (0, 1):
                for dx in (0, 1):
                    low = [int(s) for s in source]
                    at = [
                        min(i + d, n - 1)
                        for i, d, n in zip(low, (dy, dx), image.shape[:2], strict=True)
                    ]
                    share = [s - i for s, i in zip(source, low, strict=True)]
                    weight = [w if d else 1 - w for w, d in zip(share, (dy, dx), strict=True)]
                    result[y, x] += math.prod(weight) * image[at[0], at[1]]
    return result


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_resizing_is_bilinear_and_not_antialiased(array):
    image = np.random.default_rng(0).normal(size=(7, 9, 2)).astype(np.float32)
    for height, width in ((3, 20), (14, 4), (7, 9)):
        expected = plain_bilinear(image, height, width, (7 / height, 9 / width))
        np.testing.assert_allclose(resize(array(image), height, width), expected, atol=1e-5)


def test_a_given_scale_is_kept_although_the_size_is_rounded_down():
    image = np.random.default_rng(0).normal(size=(7, 9, 2)).astype(np.float32)
    scale = 2**-0.5  # 4.95 x 6.36 pixels
    expected = plain_bilinear(image, 4, 6, (1 / scale, 1 / scale))
    np.testing.assert_allclose(rescale(image, scale), expected, atol=1e-5)
    assert not np.allclose(rescale(image, scale), resize(image, 4, 6))
    np.testing.assert_allclose(bilinear_matrix(5, 3).sum(axis=1), 1, atol=1e-6)
    with pytest.raises(ValueError, match=r"1 x 9 pixels times 0\.5 would be empty"):
        rescale(image[:1], 0.5)


def test_features_of_all_scales_are_averaged_before_they_are_normalised():
    images = np.random.default_rng(0).normal(size=(2, 8, 12, 3)).astype(np.float32)

    def embed(batch):
        return np.stack([batch.mean(axis=(1, 2)), 5 * batch[:, 0, 0]]).swapaxes(0, 1).reshape(2, 6)

    halves = [embed(images), embed(rescale(images, 2**-0.5)), embed(rescale(images, 0.5))]
    mean = sum(halves) / 3
    expected = [row / np.sqrt((row**2).sum()) for row in mean]
    np.testing.assert_allclose(multi_scale_features(embed, images), expected, atol=1e-5)
    official = mean / np.sqrt((mean**2).sum())
    np.testing.assert_allclose(multi_scale_features(embed, images, True), official, atol=1e-6)
    alone = multi_scale_features(lambda x: embed(np.repeat(x, 2, 0))[:1], images[:1], True)
    np.testing.assert_allclose(alone[0], expected[0], atol=1e-6)
    assert SCALES == (1, 0.5**0.5, 0.5)
    assert (combine_scales(np.zeros((3, 2, 4))) == 0).all()
