"""Color jitter, grayscale, blur and solarization in float32, as BYOL and SimCLR define them.

Levels are numbers in [0, 1] until the end, when they are rounded to uint8. What differs from
Pillow (`recolor.py`): contrast keeps the mean of each channel, saturation is that of HSV, and blur
is one Gaussian over a tenth of the crop's height with black around it. Levels are cut to [0, 1]
after every operation of the jitter (deepmind-research/byol, augmentations.py).

Saturation, hue and grayscale leave crops that are not RGB as they are.

A row of numbers defines the operations on a crop, here and in `step/photometric_float.py`.
"""

import math

import numpy as np
from numba import float32, int32, uint8

from dino_jax.data.recolor import Photometric, interleave_crops
from dino_jax.workdir.host_kernel import kernel

# Columns of a row; numba notices changes of this file only, so they stand here.
BRIGHTNESS, CONTRAST, SATURATION = 0, 1, 2  # factors, 1 for none
HUE = 3  # turns that are added, 0 for none
GRAYSCALE = 4  # 1 or 0
SOLARIZE = 5  # smallest level that is inverted, above 1 for none
OFFSET = 6  # brightness that is added, 0 for none
WEIGHTS = 7  # of the blur at distance 0, 1, 2, …; 1, 0, 0, … for none
GRAY = (0.2989, 0.5870, 0.1140)


def blur_reach(height: int) -> int:
    """The largest distance of the Gaussian, in pixels: 11 at a height of 224, as BYOL."""
    return int(height / 10 / 2)


def gaussian_weights(radius: float, reach: int) -> list[float]:
    """Weights at distance 0 to `reach` of a Gaussian that sums to 1."""
    weights = [math.exp(-(distance**2) / (2 * radius**2)) for distance in range(reach + 1)]
    total = 2 * sum(weights) - weights[0]
    return [weight / total for weight in weights]


def recolor_float_crops(crops: np.ndarray, photometric: Photometric, out: np.ndarray) -> None:
    """Applies jitter in its order, grayscale, blur and solarization.

    Args:
      crops: [N, C, h, w] uint8, one plane per channel; overwritten.
      photometric: operations on N crops.
      out: [N, h, w, C] uint8, contiguous; receives the result.
    """
    _recolor(crops, *photometric)
    interleave_crops(crops, out)


@kernel
def _recolor(crops, values, order):
    for n in range(len(crops)):
        row = values[n]
        levels = np.empty(crops[n].shape, np.float32)
        flat, source = levels.reshape(levels.size), crops[n].reshape(levels.size)
        for i in range(levels.size):
            flat[i] = float32(source[i]) / float32(255)
        colors = levels.reshape(len(levels), levels.size // len(levels))
        is_rgb = len(levels) == 3
        for operation in order[n]:
            if operation == BRIGHTNESS and (row[BRIGHTNESS] != 1 or row[OFFSET] != 0):
                _scale(flat, row[BRIGHTNESS], row[OFFSET])
            elif operation == CONTRAST and row[CONTRAST] != 1:
                for color in range(len(colors)):
                    mean = float32(np.mean(colors[color].astype(np.float64)))
                    _scale(colors[color], row[CONTRAST], mean * (float32(1) - row[CONTRAST]))
            elif operation == SATURATION and row[SATURATION] != 1 and is_rgb:
                _turn(colors, float32(0), row[SATURATION])
            elif operation == HUE and row[HUE] != 0 and is_rgb:
                _turn(colors, row[HUE], float32(1))
        if row[GRAYSCALE] == 1 and is_rgb:
            _drop_color(colors)
        if row[WEIGHTS] != 1:
            _blur(levels, row[WEIGHTS:])
        for i in range(levels.size):
            level = flat[i] if flat[i] < row[SOLARIZE] else float32(1) - flat[i]
            level = min(max(level, float32(0)), float32(1))
            source[i] = uint8(int32(level * float32(255) + float32(0.5)))


@kernel
def _scale(flat, factor, offset):
    for i in range(flat.size):
        flat[i] = min(max(flat[i] * factor + offset, float32(0)), float32(1))


@kernel
def _drop_color(colors):
    for i in range(colors.shape[1]):
        gray = (
            float32(GRAY[0]) * colors[0, i]
            + float32(GRAY[1]) * colors[1, i]
            + float32(GRAY[2]) * colors[2, i]
        )
        colors[0, i] = gray
        colors[1, i] = gray
        colors[2, i] = gray


@kernel
def _turn(colors, shift, factor):
    """HSV and back, the hue turned and the saturation multiplied and cut to 1."""
    six, one, zero = float32(6), float32(1), float32(0)
    for i in range(colors.shape[1]):
        red, green, blue = colors[0, i], colors[1, i], colors[2, i]
        value = max(max(red, green), blue)
        span = value - min(min(red, green), blue)
        divisor = span if span > zero else one
        sextants = (red - green) / divisor + float32(4)
        if green == value:
            sextants = (blue - red) / divisor + float32(2)
        if red == value:
            sextants = (green - blue) / divisor
        sextants = sextants if span > zero else zero
        saturation = min(span / (value if value > zero else one) * factor, one)
        sextants += six * shift
        for color in range(3):
            place = sextants + float32(5 - 2 * color) + six
            place -= six * float32(math.floor(place / six))
            part = min(max(min(place, float32(4) - place), zero), one)
            colors[color, i] = value * (one - saturation * part)


@kernel
def _blur(levels, weights):
    """Along the columns, then along the rows; black around."""
    reach = weights.size - 1
    height, width = levels.shape[1:]
    other = np.empty((height, width), np.float32)
    line = np.zeros(width + 2 * reach, np.float32)
    for plane in levels:
        for y in range(height):
            target = other[y]
            for x in range(width):
                target[x] = weights[0] * plane[y, x]
            for distance in range(1, reach + 1):
                for side in (y - distance, y + distance):
                    if 0 <= side < height:
                        for x in range(width):
                            target[x] += weights[distance] * plane[side, x]
        for y in range(height):
            for x in range(width):
                line[reach + x] = other[y, x]
                plane[y, x] = weights[0] * other[y, x]
            for distance in range(1, reach + 1):
                for x in range(width):
                    both = line[reach + x - distance] + line[reach + x + distance]
                    plane[y, x] += weights[distance] * both
