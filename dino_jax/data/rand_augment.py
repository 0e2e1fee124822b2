"""RandAugment (arXiv:1909.13719) in the form that DeiT and MAE fine-tune with.

Two operations of 15 are drawn for each image, each is applied half of the time, and its strength is
normal around the magnitude. The strengths are those of timm's "increasing" operations, where a
larger magnitude always changes more.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

OPERATIONS_PER_IMAGE = 2
PROBABILITY = 0.5  # that a drawn operation is applied
DEVIATION = 0.5  # of the magnitude
MOST = 10.0  # magnitude of the full strength
OUTSIDE = (124, 116, 104)  # ImageNet's mean color, for what comes in from outside

Operation = Callable[[Image.Image, float, float], Image.Image]


@dataclass(frozen=True)
class RandAugment:
    """Recolors and bends a crop.

    Attributes:
      magnitude: mean strength, 0 to 10.
    """

    magnitude: float

    def __call__(self, rng: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
        """[H, W, 3] uint8 to the same; advances the generator by ten numbers."""
        image = Image.fromarray(pixels)
        for number in rng.integers(len(OPERATIONS), size=OPERATIONS_PER_IMAGE).tolist():
            applied, sign = rng.random(2)
            strength = np.clip(rng.normal(self.magnitude, DEVIATION), 0, MOST) / MOST
            if applied < PROBABILITY:
                operation = list(OPERATIONS.values())[number]
                image = operation(image, float(strength), 1.0 if sign < 0.5 else -1.0)
        return np.asarray(image)


def _bend(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    """Each pixel (x, y) becomes that at (ax + by + c, dx + ey + f)."""
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        matrix,
        resample=Image.Resampling.BICUBIC,
        fillcolor=OUTSIDE,
    )


def _turn(image: Image.Image, strength: float, sign: float) -> Image.Image:
    angle = 30.0 * strength * sign  # degrees
    return image.rotate(angle, resample=Image.Resampling.BICUBIC, fillcolor=OUTSIDE)


def _keep_upper_bits(image: Image.Image, strength: float, sign: float) -> Image.Image:
    """Keeps four bits or fewer; black at the full strength."""
    bits = 4 - int(4 * strength)
    return ImageOps.posterize(image, bits) if bits else image.point(lambda level: 0)


def _solarize_and_add(image: Image.Image, strength: float, sign: float) -> Image.Image:
    """Adds up to 110 to levels below 128."""
    levels = np.arange(256)
    table = np.where(levels < 128, np.minimum(levels + int(110 * strength), 255), levels)
    return image.point(table.tolist() * len(image.getbands()))


def _enhance(of: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    def enhance(image: Image.Image, strength: float, sign: float) -> Image.Image:
        return of(image).enhance(max(1.0 + 0.9 * strength * sign, 0.1))

    return enhance


# (image, strength in [0, 1], sign) -> image
OPERATIONS: dict[str, Operation] = {
    "autocontrast": lambda image, strength, sign: ImageOps.autocontrast(image),
    "equalize": lambda image, strength, sign: ImageOps.equalize(image),
    "invert": lambda image, strength, sign: ImageOps.invert(image),
    "rotate": _turn,
    "posterize": _keep_upper_bits,
    "solarize": lambda image, strength, sign: ImageOps.solarize(image, 256 - int(256 * strength)),
    "solarize_and_add": _solarize_and_add,
    "saturation": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "shear_x": lambda image, strength, sign: _bend(image, (1, 0.3 * strength * sign, 0, 0, 1, 0)),
    "shear_y": lambda image, strength, sign: _bend(image, (1, 0, 0, 0.3 * strength * sign, 1, 0)),
    "translate_x": lambda image, strength, sign: _bend(
        image, (1, 0, 0.45 * strength * sign * image.width, 0, 1, 0)
    ),
    "translate_y": lambda image, strength, sign: _bend(
        image, (1, 0, 0, 0, 1, 0.45 * strength * sign * image.height)
    ),
}
