"""How a photograph becomes the square that a network sees when it is not trained."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from dino_jax.config.section import option
from dino_jax.data.resampling import resize_pixels

# Short side of an evaluation view before the central square is cut, over its side.
USUAL_SHORT_SIDE = 256 / 224
MAX_EVAL_ASPECT = 8  # long / short side kept before resizing; a 1 x 65535 JPEG would take 13 GB
RESAMPLINGS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
FITS = ("crop", "squeeze")


def resize_for_evaluation(
    image: np.ndarray,
    size: int,
    short_side: float = USUAL_SHORT_SIDE,
    resampling: Image.Resampling = Image.Resampling.BICUBIC,
) -> np.ndarray:
    """The usual evaluation view: short side to round(size * short_side), bicubic, central square.

    An image that already has that size is returned unchanged. As torchvision's Resize and
    CenterCrop, but images longer than 8:1 are cut to 8:1 first.

    Args:
      image: [H, W, C] uint8.
      size: S, in pixels.
      short_side: short side over `size`, at least 1.
      resampling: filter, if not bicubic.

    Returns:
      [S, S, C] uint8.
    """
    height, width = image.shape[:2]
    if height == width == size:
        return image
    limit = MAX_EVAL_ASPECT * min(height, width)
    top, left = max(0, height - limit) // 2, max(0, width - limit) // 2
    image = image[top : top + limit, left : left + limit]
    height, width = image.shape[:2]
    short = round(size * short_side)
    new_width = short if width <= height else int(short * width / height)
    new_height = short if height <= width else int(short * height / width)
    left, top = round((new_width - size) / 2), round((new_height - size) / 2)
    resized = resize_pixels(image, (new_height, new_width), resampling)
    return np.ascontiguousarray(resized[top : top + size, left : left + size])


@dataclass(frozen=True)
class View:
    """The section `view` of an import: how its network was shown images."""

    fit: str = option(
        "crop",
        "crop (the central square) | squeeze (the whole image, whatever its aspect)",
        among=FITS,
    )
    short_side: float = option(
        USUAL_SHORT_SIDE,
        "short side before the square is cut, over its side",
        at_least=1,
        at_most=100,
    )
    resampling: str = option("bicubic", "bicubic | bilinear", among=RESAMPLINGS)

    def __call__(self, image: np.ndarray, size: int) -> np.ndarray:
        """[H, W, C] uint8 -> [size, size, C]; an image of that size is returned unchanged."""
        resampling = RESAMPLINGS[self.resampling]
        if self.fit == "crop":
            return resize_for_evaluation(image, size, self.short_side, resampling)
        if image.shape[:2] == (size, size):
            return image
        return resize_pixels(image, (size, size), resampling)


USUAL_VIEW = View()
