"""What is random about the crops of the DINO augmentation, with torchvision's distributions.

`geometry.py` applies it, then `recolor.py`, or `step/photometric.py` on the device.
"""

import math
from dataclasses import dataclass

import numpy as np

_BOX_TRIES = 10  # torchvision RandomResizedCrop.get_params
_DECISIONS = 14  # uniform numbers a crop takes beside those of its box


@dataclass(frozen=True)
class CropConfig:
    """How one kind of crop is drawn; the official values are in configs/.

    Attributes:
      count: crops of this kind per image, >= 0.
      size: pixels of the square crop's side, or (height, width).
      scale: (low, high) share of the image's area, in (0, 1].
      ratio: (low, high) width / height of the box before resizing, log-uniform.
      flip: probability of a horizontal flip.
      jitter: probability of the color jitter.
      brightness: the factor is uniform in 1 -+ this, at least 0; 0 leaves the operation out.
      contrast: as brightness.
      saturation: as brightness.
      hue: the shift is uniform in -+ this, in turns of the color circle, at most 0.5.
      grayscale: probability of three equal gray channels.
      blur: probability of the Gaussian blur.
      blur_radius: (low, high) standard deviation of the blur in pixels of the resized crop.
      solarize: probability of inverting bright values.
      solarize_threshold: the smallest value (0 to 256) that is inverted.
    """

    count: int
    size: int | tuple[int, int]
    scale: tuple[float, float]
    ratio: tuple[float, float]
    flip: float
    jitter: float
    brightness: float
    contrast: float
    saturation: float
    hue: float
    grayscale: float
    blur: float
    blur_radius: tuple[float, float]
    solarize: float
    solarize_threshold: int

    def __post_init__(self):
        for name in ("scale", "ratio", "blur_radius"):
            object.__setattr__(self, name, _checked_range(name, getattr(self, name)))
        for name in ("flip", "jitter", "grayscale", "blur", "solarize"):
            _check(0 <= getattr(self, name) <= 1, name, getattr(self, name), "a probability")
        for name in ("brightness", "contrast", "saturation"):
            _check(getattr(self, name) >= 0, name, getattr(self, name), ">= 0")
        _check(self.count >= 0, "count", self.count, ">= 0")
        _check(min(self.height, self.width) > 0, "size", self.size, "positive pixels")
        _check(self.scale[0] > 0 and self.scale[1] <= 1, "scale", self.scale, "inside (0, 1]")
        _check(self.ratio[0] > 0, "ratio", self.ratio, "positive")
        _check(0 <= self.hue <= 0.5, "hue", self.hue, "in [0, 0.5]")
        _check(self.blur_radius[0] >= 0, "blur_radius", self.blur_radius, ">= 0")

    @property
    def height(self) -> int:
        """Pixels of the crop's vertical side."""
        return self.size if isinstance(self.size, int) else self.size[0]

    @property
    def width(self) -> int:
        """Pixels of the crop's horizontal side."""
        return self.size if isinstance(self.size, int) else self.size[1]


@dataclass(frozen=True)
class CropParameters:
    """Everything random about one crop.

    Attributes:
      box: (left, top, right, bottom) in pixels of the image, right and bottom excluded.
      flip: whether to mirror left and right.
      jitter: (operation, factor) in the order of application; empty for none.
      grayscale: whether to drop the color.
      blur_radius: standard deviation in pixels, or None.
      solarize: whether to solarize.
    """

    box: tuple[int, int, int, int]
    flip: bool
    jitter: tuple[tuple[str, float], ...]
    grayscale: bool
    blur_radius: float | None
    solarize: bool


def sample_crop_parameters(
    rng: np.random.Generator, config: CropConfig, height: int, width: int
) -> CropParameters:
    """Draws the parameters of one crop as torchvision's transforms do.

    Every crop takes the same count of random numbers, whatever they decide: changing one
    probability changes nothing else.

    Args:
      rng: moved on by 54 uniform numbers.
      config: the distributions.
      height: of the image, in pixels.
      width: of the image, in pixels.
    """
    draws = rng.random(4 * _BOX_TRIES + _DECISIONS).tolist()
    box = _sample_box(draws[: 4 * _BOX_TRIES], config, height, width)
    flip, jitter, grayscale, blur, radius, solarize, *color = draws[4 * _BOX_TRIES :]
    return CropParameters(
        box=box,
        flip=flip < config.flip,
        jitter=_sample_jitter(color[:4], color[4:], config) if jitter < config.jitter else (),
        grayscale=grayscale < config.grayscale,
        blur_radius=_between(config.blur_radius, radius) if blur < config.blur else None,
        solarize=solarize < config.solarize,
    )


def _sample_box(
    draws: list[float], config: CropConfig, height: int, width: int
) -> tuple[int, int, int, int]:
    """torchvision's RandomResizedCrop.get_params; `draws` holds four numbers per try."""
    log_ratio = (math.log(config.ratio[0]), math.log(config.ratio[1]))
    for start in range(0, len(draws), 4):
        area_draw, ratio_draw, top_draw, left_draw = draws[start : start + 4]
        area = height * width * _between(config.scale, area_draw)
        ratio = math.exp(_between(log_ratio, ratio_draw))
        box_width = round(math.sqrt(area * ratio))
        box_height = round(math.sqrt(area / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(top_draw * (height - box_height + 1))
            left = int(left_draw * (width - box_width + 1))
            return left, top, left + box_width, top + box_height
    return _central_box(config.ratio, height, width)


def _central_box(ratio: tuple[float, float], height: int, width: int) -> tuple[int, int, int, int]:
    """The largest central box whose width / height lies in `ratio`, for when no try has fitted."""
    box_height, box_width = height, width
    if width / height < ratio[0]:
        box_height = round(width / ratio[0])
    elif width / height > ratio[1]:
        box_width = round(height * ratio[1])
    top, left = (height - box_height) // 2, (width - box_width) // 2
    return left, top, left + box_width, top + box_height


def _sample_jitter(
    factors: list[float], order: list[float], config: CropConfig
) -> tuple[tuple[str, float], ...]:
    """torchvision's ColorJitter: its operations of strength > 0 in random order."""
    operations = []
    for name, draw in zip(("brightness", "contrast", "saturation"), factors, strict=False):
        strength = getattr(config, name)
        operations.append((name, strength, _between((max(0.0, 1 - strength), 1 + strength), draw)))
    operations.append(("hue", config.hue, _between((-config.hue, config.hue), factors[3])))
    permutation = sorted(range(len(order)), key=order.__getitem__)
    chosen = (operations[index] for index in permutation)
    return tuple((name, factor) for name, strength, factor in chosen if strength > 0)


def _between(bounds: tuple[float, float], draw: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * draw


def _checked_range(name: str, value) -> tuple[float, float]:
    pair = tuple(value)
    _check(len(pair) == 2 and pair[0] <= pair[1], name, value, "(low, high) with low <= high")
    return pair


def _check(holds: bool, name: str, value, expected: str):
    if not holds:
        raise ValueError(f"augmentation: {name} must be {expected}, got {value!r}")
