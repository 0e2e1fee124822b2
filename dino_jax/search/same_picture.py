"""Whether two files show one picture, in another size or compression: by their pixels.

Both are reduced to 32 x 32 colors. They show the same picture if their aspects differ by 3 % at
most, these colors by 6 of 255 on average, and none of the 8 x 8 means of them by more than 20.
JPEG at quality 30 and a tenth of the size stay within that; another photograph of the same thing
does not. Pictures that differ in a detail smaller than a thirtieth of their side may pass.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

SIDE, COARSE = 32, 8
ASPECT, MEAN, MOST = 0.03, 6.0, 20.0


class Look(NamedTuple):
    """What is compared.

    Attributes:
      width, height: in pixels.
      colors: [32, 32, 3] float32.
    """

    width: int
    height: int
    colors: np.ndarray


def look_at(pixels: np.ndarray) -> Look:
    """Reduces a picture [H, W, 3] uint8."""
    small = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BOX)
    return Look(pixels.shape[1], pixels.shape[0], np.asarray(small, np.float32))


def is_same(one: Look, other: Look) -> bool:
    """See the top of this file."""
    aspects = one.width * other.height / (one.height * other.width)
    if abs(aspects - 1) > ASPECT:
        return False
    apart = one.colors - other.colors
    side = SIDE // COARSE
    coarse = apart.reshape(COARSE, side, COARSE, side, 3).mean(axis=(1, 3))
    return bool(np.abs(apart).mean() <= MEAN and np.abs(coarse).max() <= MOST)
