"""Operations of RandAugment, against plain NumPy, and how they are drawn."""

import numpy as np
import pytest
from PIL import Image

from dino_jax.data.rand_augment import OPERATIONS, RandAugment


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return np.array(Image.fromarray(coarse).resize((40, 30), Image.Resampling.BICUBIC))


def apply(name: str, pixels: np.ndarray, strength: float, sign: float = 1.0) -> np.ndarray:
    return np.asarray(OPERATIONS[name](Image.fromarray(pixels), strength, sign))


def test_levels_change_as_their_names_say(pixels):
    levels = pixels.astype(int)
    np.testing.assert_array_equal(apply("invert", pixels, 0.5), 255 - levels)
    np.testing.assert_array_equal(apply("posterize", pixels, 0.5), levels & 0b11000000)
    np.testing.assert_array_equal(apply("posterize", pixels, 1.0), 0 * levels)
    inverted = np.where(levels < 128, levels, 255 - levels)
    np.testing.assert_array_equal(apply("solarize", pixels, 0.5), inverted)
    brighter = np.where(levels < 128, np.minimum(levels + 55, 255), levels)
    np.testing.assert_array_equal(apply("solarize_and_add", pixels, 0.5), brighter)
    for sign in (1.0, -1.0):
        scaled = np.clip(levels * (1 + 0.45 * sign), 0, 255)
        found = apply("brightness", pixels, 0.5, sign).astype(float)
        np.testing.assert_allclose(found, scaled, rtol=0, atol=1)


def test_moved_pixels_leave_the_mean_color_behind(pixels):
    moved = apply("translate_x", pixels, 1.0)  # 0.45 * 40 = 18 pixels to the left
    np.testing.assert_array_equal(moved[:, :22], pixels[:, 18:])
    np.testing.assert_array_equal(moved[:, 22:], np.broadcast_to([124, 116, 104], (30, 18, 3)))
    np.testing.assert_array_equal(
        apply("translate_y", pixels, 2 / 2.7, -1.0)[10:], pixels[:-10]
    )  # 0.45 * 30 * 2 / 2.7 = 10 pixels down


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_keeps_size_and_channels(name, pixels):
    for strength in (0.0, 0.37, 1.0):
        for sign in (1.0, -1.0):
            found = apply(name, pixels, strength, sign)
            assert (found.shape, found.dtype) == (pixels.shape, np.uint8)


def test_a_seed_gives_the_same_pixels_and_seeds_differ(pixels):
    def augment(seed: int) -> np.ndarray:
        return RandAugment(9.0)(np.random.default_rng(seed), pixels)

    np.testing.assert_array_equal(augment(3), augment(3))
    kinds = {augment(seed).tobytes() for seed in range(60)}
    assert len(kinds) > 30
    # Nothing happens in a quarter of the cases, where both operations are left out.
    same = sum(np.array_equal(augment(seed), pixels) for seed in range(60))
    assert 5 <= same <= 27
