"""Photographs that a phone has stored on their side are upright in the index and in queries."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from dino_jax.search.photos import Photos


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_photograph_is_read_upright(orientation, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "a.png"))
    np.testing.assert_array_equal(Photos(str(tmp_path)).read("a.png"), np.asarray(upright))
