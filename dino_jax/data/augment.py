"""Random choices of the crops of the DINO augmentation, with torchvision's distributions.

`geometry.py` applies it, then `recolor.py`, or `step/photometric.py` on the device.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from dino_jax.config.range import MOST_SIDE
from dino_jax.config.section import option

_BOX_TRIES = 10  # torchvision RandomResizedCrop.get_params
_DECISIONS = 14  # uniform numbers that a crop takes besides those of its box


@dataclass(frozen=True)
class CropConfig:
    """How one kind of crop is drawn. Defaults: the official first global crop."""

    group: str = option("global", "crops of one group have one size and one array in the batch")
    count: int = option(1, "crops of this kind per image", at_least=0, at_most=100)
    size: tuple[int, int] = option(
        (224, 224), "(height, width) in pixels", at_least=1, at_most=MOST_SIDE
    )
    scale: tuple[float, float] = option(
        (0.4, 1.0), "(low, high) share of the image's area", above=0, at_most=1
    )
    ratio: tuple[float, float] = option(
        (3 / 4, 4 / 3),
        "(low, high) width / height of the box, log-uniform",
        at_least=0.01,
        at_most=100,
    )
    resize: Literal["bicubic", "bilinear"] = option(
        "bicubic",
        "filter of the resize, antialiased: bicubic (DINO, SimCLR, BYOL) | bilinear (MoCo)",
    )
    flip: float = option(0.5, "probability of a horizontal flip", at_least=0, at_most=1)
    jitter: float = option(0.8, "probability of the color jitter", at_least=0, at_most=1)
    brightness: float = option(
        0.4, "the factor is uniform in 1 -+ this, at least 0; 0: left out", at_least=0, at_most=100
    )
    brightness_adds: bool = option(
        False, "colors='float': adds a number in -+ brightness to levels in [0, 1] (BYOL)"
    )
    contrast: float = option(0.4, "as brightness", at_least=0, at_most=100)
    saturation: float = option(0.2, "as brightness", at_least=0, at_most=100)
    hue: float = option(
        0.1,
        "the shift is uniform in -+ this, in turns of the color circle",
        at_least=0,
        at_most=0.5,
    )
    grayscale: float = option(
        0.2, "probability of three equal gray channels", at_least=0, at_most=1
    )
    blur: float = option(1.0, "probability of the Gaussian blur", at_least=0, at_most=1)
    blur_radius: tuple[float, float] = option(
        (0.1, 2.0),
        "(low, high) standard deviation in pixels of the resized crop",
        at_least=0,
        at_most=1000,
    )
    solarize: float = option(0.0, "probability of inverting bright values", at_least=0, at_most=1)
    solarize_threshold: int = option(
        128, "smallest value that is inverted", at_least=0, at_most=256
    )
    colors: Literal["pillow", "float"] = option(
        "pillow",
        "arithmetic of the colors: Pillow's (DINO, MoCo v3), or float32 with HSV, contrast by "
        "channel and one Gaussian with black around, over a tenth of the height (BYOL, SimCLR)",
    )
    box_of: str = option("", "name of the crop whose box and flip this one takes; '': its own")
    same_colors: bool = option(
        False,
        "with box_of: takes the random numbers of that crop's recoloring, too; with the same "
        "probabilities, and blur_radius by the ratio of the sizes, both show one picture",
    )
    frame: int = option(
        0, "frame of a clip that it is cut from, modulo its frames; a still has one", at_least=0
    )


@dataclass(frozen=True)
class CropParameters:
    """All random choices of one crop.

    Attributes:
      box: (left, top, right, bottom) in pixels of the image, right and bottom excluded.
      flip: whether to mirror left and right.
      jitter: (operation, factor) in the order of application; empty for none. The factor of
        "brightness" is an addend where the config says so.
      grayscale: whether to drop the color.
      blur_radius: standard deviation in pixels, or None.
      solarize: whether to solarize.
      draws: the uniform numbers of its recoloring, for crops that share them.
    """

    box: tuple[int, int, int, int]
    flip: bool
    jitter: tuple[tuple[str, float], ...]
    grayscale: bool
    blur_radius: float | None
    solarize: bool
    draws: tuple[float, ...] = field(default=(), compare=False, repr=False)


def sample_crop_parameters(
    rng: np.random.Generator, config: CropConfig, height: int, width: int
) -> CropParameters:
    """Draws the parameters of one crop as torchvision's transforms do.

    Every crop takes the same number of random numbers, whatever they decide, so that changing one
    probability changes nothing else.

    Args:
      rng: generator, advanced by 54 uniform numbers.
      config: the distributions.
      height: height of the image, in pixels.
      width: width of the image, in pixels.
    """
    draws = rng.random(4 * _BOX_TRIES + _DECISIONS).tolist()
    box = _sample_box(draws[: 4 * _BOX_TRIES], config, height, width)
    flip, *color = draws[4 * _BOX_TRIES :]
    return _sample_color(color, config, box, flip < config.flip)


def sample_same_box(
    rng: np.random.Generator, config: CropConfig, other: CropParameters
) -> CropParameters:
    """Draws the recoloring of a crop that takes its box and flip from another one.

    With `config.same_colors` it takes the random numbers of the other's recoloring instead of its
    own, which are drawn all the same.

    Args:
      rng: generator, advanced by 13 uniform numbers.
      config: the distributions.
      other: parameters of the crop with the box.
    """
    own = rng.random(_DECISIONS - 1).tolist()
    draws = list(other.draws) if config.same_colors else own
    return _sample_color(draws, config, other.box, other.flip)


def smallest_box(config: CropConfig, height: int, width: int) -> tuple[int, int]:
    """Bounds of (height, width) of the boxes that can be drawn, in pixels; see `_sample_box`."""
    area = height * width * config.scale[0]
    left, top, right, bottom = _central_box(config.ratio, height, width)
    return (
        min(round(math.sqrt(area / config.ratio[1])), bottom - top),
        min(round(math.sqrt(area * config.ratio[0])), right - left),
    )


def _sample_color(
    draws: list[float], config: CropConfig, box: tuple[int, int, int, int], flip: bool
) -> CropParameters:
    jitter, grayscale, blur, radius, solarize, *color = draws
    return CropParameters(
        box=box,
        flip=flip,
        jitter=_sample_jitter(color[:4], color[4:], config) if jitter < config.jitter else (),
        grayscale=grayscale < config.grayscale,
        blur_radius=_between(config.blur_radius, radius) if blur < config.blur else None,
        solarize=solarize < config.solarize,
        draws=tuple(draws),
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
    """The largest central box whose width / height lies in `ratio`, if no try fits."""
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
        bounds = (max(0.0, 1 - strength), 1 + strength)
        if name == "brightness" and config.brightness_adds:
            bounds = (-strength, strength)
        operations.append((name, strength, _between(bounds, draw)))
    operations.append(("hue", config.hue, _between((-config.hue, config.hue), factors[3])))
    permutation = sorted(range(len(order)), key=order.__getitem__)
    chosen = (operations[index] for index in permutation)
    return tuple((name, factor) for name, strength, factor in chosen if strength > 0)


def _between(bounds: tuple[float, float], draw: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * draw
