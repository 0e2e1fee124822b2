"""Color jitter, grayscale, blur and solarization of uint8 crops, with the arithmetic of Pillow.

Saturation, hue and grayscale are those of RGB; crops of another number of channels are left as they
are by them, and the contrast of each channel is by its own mean.

A row of numbers defines the operations on a crop, for this back end and for the one on the
device (`step/photometric.py`).
"""

from typing import NamedTuple

import numpy as np
from numba import float32, float64, int32, uint8, uint32

from dino_jax.workdir.host_kernel import kernel

# Columns of a row; the weights of the blur at distance 0, 1, 2, ... follow.
BRIGHTNESS, CONTRAST, SATURATION = 0, 1, 2  # factors, 1 for none
HUE = 3  # added to the hue of 0 to 255; negative for no round trip through HSV
GRAYSCALE = 4  # 1 or 0
SOLARIZE = 5  # smallest value that is inverted, 256 for none
BLUR = 6

ONE = 1 << 24  # the blur's weights are fixed-point numbers that sum up to it
_GRAY = (19595, 38470, 7471)  # ITU-R 601-2 luma, 16 bits, as in Pillow


class Photometric(NamedTuple):
    """Operations on some crops.

    Attributes:
      values: [..., BLUR + T] float32, columns as above.
      order: [..., 4] uint8, the order of BRIGHTNESS, CONTRAST, SATURATION and HUE.
    """

    values: np.ndarray
    order: np.ndarray


def recolor_crops(crops: np.ndarray, photometric: Photometric, out: np.ndarray) -> None:
    """Applies jitter in its order, grayscale, blur and solarization; equal to Pillow bit by bit.

    Args:
      crops: [N, C, h, w] uint8, one plane per channel; overwritten.
      photometric: operations on N crops.
      out: [N, h, w, C] uint8, contiguous; receives the result.
    """
    recolor = _recolor if crops.shape[1] == 3 else _recolor_channels
    recolor(crops, *photometric, out)


def interleave_crops(crops: np.ndarray, out: np.ndarray) -> None:
    """Copies [N, C, h, w] uint8 crops to [N, h, w, C]."""
    interleave = _interleave if crops.shape[1] == 3 else _interleave_channels
    interleave(crops, out)


@kernel
def _recolor(crops, values, order, out):
    for n in range(len(crops)):
        crop, row = crops[n], values[n]
        flat = crop.reshape(3, crop.shape[1] * crop.shape[2])
        for operation in order[n]:
            if operation == BRIGHTNESS and row[BRIGHTNESS] != 1:
                _blend(flat, float32(0), row[BRIGHTNESS])
            elif operation == CONTRAST and row[CONTRAST] != 1:
                _blend(flat, _mean_gray(flat), row[CONTRAST])
            elif operation == SATURATION and row[SATURATION] != 1:
                _saturate(flat, row[SATURATION])
            elif operation == HUE and row[HUE] >= 0:
                _turn_hue(flat, row[HUE])
        if row[GRAYSCALE] == 1:
            _drop_color(flat)
        if row[BLUR] != ONE:
            _blur(crop, row[BLUR:])
        if row[SOLARIZE] < 256:
            _invert_from(crop.reshape(crop.size), uint8(row[SOLARIZE]))
    _interleave(crops, out)


@kernel
def _recolor_channels(crops, values, order, out):
    """`_recolor` of any number of channels, each by itself."""
    for n in range(len(crops)):
        crop, row = crops[n], values[n]
        flat = crop.reshape(len(crop), crop[0].size)
        for operation in order[n]:
            if operation == BRIGHTNESS and row[BRIGHTNESS] != 1:
                _blend(flat, float32(0), row[BRIGHTNESS])
            elif operation == CONTRAST and row[CONTRAST] != 1:
                for c in range(len(flat)):
                    _blend(flat[c], _mean_level(flat[c]), row[CONTRAST])
        if row[BLUR] != ONE:
            _blur(crop, row[BLUR:])
        if row[SOLARIZE] < 256:
            _invert_from(crop.reshape(crop.size), uint8(row[SOLARIZE]))
    _interleave_channels(crops, out)


@kernel
def _mean_level(levels):
    total = 0
    for i in range(levels.size):
        total += levels[i]
    return float32(np.floor(total / levels.size + 0.5))


@kernel
def _interleave_channels(crops, out):
    for n in range(len(crops)):
        for c in range(crops.shape[1]):
            for y in range(crops.shape[2]):
                for x in range(crops.shape[3]):
                    out[n, y, x, c] = crops[n, c, y, x]


@kernel
def _interleave(crops, out):
    for n in range(len(crops)):
        flat, pixels = crops[n].reshape(3, crops[n, 0].size), out[n].reshape(crops[n].size)
        red, green, blue = flat[0], flat[1], flat[2]
        for i in range(red.size):
            pixels[3 * i] = red[i]
            pixels[3 * i + 1] = green[i]
            pixels[3 * i + 2] = blue[i]


@kernel
def _clip(level):
    return uint8(np.int32(min(max(level, float32(0)), float32(255))))


@kernel
def _blend(flat, base, factor):
    """ImageEnhance.Brightness (base 0) and Contrast (base: the mean gray level)."""
    levels = flat.reshape(flat.size)
    for i in range(levels.size):
        levels[i] = _clip(base + factor * (float32(levels[i]) - base))


@kernel
def _gray(red, green, blue):
    # int32 at once: numba would continue with 64 bits, in half as many lanes.
    weighted = int32(red * _GRAY[0] + green * _GRAY[1] + blue * _GRAY[2] + 0x8000)
    return int32(weighted >> int32(16))


@kernel
def _mean_gray(flat):
    total = 0
    for start in range(0, flat.shape[1], 4096):
        part = flat[:, start : start + 4096]
        red, green, blue = part[0], part[1], part[2]
        subtotal = int32(0)
        for i in range(red.size):
            subtotal = int32(subtotal + _gray(red[i], green[i], blue[i]))
        total += subtotal
    return float32(np.floor(total / flat.shape[1] + 0.5))


@kernel
def _saturate(flat, factor):
    red, green, blue = flat[0], flat[1], flat[2]
    for i in range(red.size):
        gray = float32(_gray(red[i], green[i], blue[i]))
        red[i] = _clip(gray + factor * (float32(red[i]) - gray))
        green[i] = _clip(gray + factor * (float32(green[i]) - gray))
        blue[i] = _clip(gray + factor * (float32(blue[i]) - gray))


@kernel
def _drop_color(flat):
    red, green, blue = flat[0], flat[1], flat[2]
    for i in range(red.size):
        gray = uint8(_gray(red[i], green[i], blue[i]))
        red[i] = gray
        green[i] = gray
        blue[i] = gray


@kernel
def _invert_from(levels, threshold):
    for i in range(levels.size):
        level = levels[i]
        levels[i] = level if level < threshold else uint8(255 - level)


@kernel
def _turn_hue(flat, shift):
    """PIL's uint8 HSV and back."""
    red, green, blue = flat[0], flat[1], flat[2]
    for i in range(red.size):
        hue, saturation, value = _to_hsv(float32(red[i]), float32(green[i]), float32(blue[i]))
        hue += shift
        hue = hue - float32(256) if hue >= float32(256) else hue
        r, g, b = _to_rgb(hue, saturation, value)
        red[i], green[i], blue[i] = uint8(int32(r)), uint8(int32(g)), uint8(int32(b))


@kernel
def _to_hsv(r, g, b):
    """HSV of three levels, without branches; single and double precision where Pillow has them."""
    one = float32(1)
    value, low = max(max(r, g), b), min(min(r, g), b)
    middle = r + g + b - value - low
    part = (value - middle) / max(value - low, one)
    sextants = float32(5) - part if g == low else float32(3) + part
    if g == value:
        sextants = float32(3) - part if r == low else one + part
    if r == value:
        sextants = one - part if b == low else part - one
    turns = float64(sextants) * (1 / 6) + 1.0
    turns = turns - 1.0 if turns >= 1.0 else turns
    hue = float32(int32(float64(float32(turns)) * 255.0))
    saturation = float32(int32(float64((value - low) / max(value, one)) * 255.0))
    return hue, saturation, value


@kernel
def _to_rgb(hue, saturation, value):
    """RGB of levels 0 to 255; each channel is the value, the lowest or the middle one."""
    sixfold = hue * float32(6)
    sextant = float32(int32(sixfold * float32(1 / 255) + float32(1e-4)))  # 1e-4: no 2.999…
    part = (sixfold - sextant * float32(255)) / float32(255)
    share = saturation / float32(255)
    half = sextant * float32(0.5)
    odd = half != float32(int32(half))
    drop = float64(share * part) if odd else float64(share) * (1.0 - float64(part))
    middle = float32(int32(float64(value) * (1.0 - drop) + 0.5))
    low = value * (float32(1) - share) + float32(0.5)
    sextant = float32(0) if sextant == float32(6) else sextant
    r = float32(abs(sextant - float32(2.5)))
    g = float32(2.5) - float32(abs(sextant - float32(1.5)))
    b = float32(2.5) - float32(abs(sextant - float32(3.5)))
    return (
        value if r == float32(2.5) else (middle if r == float32(1.5) else low),
        value if g == float32(2) else (middle if g == float32(1) else low),
        value if b == float32(2) else (middle if b == float32(1) else low),
    )


@kernel
def _blur(crop, weights):
    """Three box filters along the rows, then three along the columns; edges are repeated."""
    r, outer = _box(weights)
    edge = r + 1
    height, width = crop.shape[1:]
    shape = (height + 2 * edge, width + 2 * edge)
    padded, other = np.empty(shape, np.uint8), np.empty(shape, np.uint8)
    for plane in crop:
        _copy(plane, padded[edge:, edge:], height, width)
        for _ in range(3):
            _repeat_columns(padded[edge:-edge], edge)
            _filter(padded, 1, r, weights[0], outer, other)
            padded, other = other, padded
        for _ in range(3):
            _repeat_rows(padded, edge)
            _filter(padded, shape[1], r, weights[0], outer, other)
            padded, other = other, padded
        _copy(padded[edge:, edge:], plane, height, width)


@kernel
def _copy(source, target, height, width):
    for y in range(height):
        for x in range(width):  # numba copies slices far slower
            target[y, x] = source[y, x]


@kernel
def _box(weights):
    """The largest distance of the first weight, and the weight at the next distance."""
    r = 0
    while r + 1 < weights.size and weights[r + 1] == weights[0]:
        r += 1
    return r, (weights[r + 1] if r + 1 < weights.size else float32(0))


@kernel
def _repeat_columns(rows, edge):
    for row in rows:
        for x in range(edge):
            row[x] = row[edge]
            row[row.size - 1 - x] = row[row.size - 1 - edge]


@kernel
def _repeat_rows(rows, edge):
    for y in range(edge):
        rows[y] = rows[edge]
        rows[len(rows) - 1 - y] = rows[len(rows) - 1 - edge]


@kernel
def _filter(padded, step, r, inner, outer, out):
    """Filters along neighbors that are `step` bytes apart; the results at the edges are invalid."""
    flat, reach = padded.reshape(padded.size), (r + 1) * step
    length = flat.size - 2 * reach
    target = out.reshape(out.size)[reach:]
    before, after = flat, flat[2 * reach :]
    sums = flat[reach:]
    inner, outer = uint32(inner), uint32(outer)
    if r == 0:
        for i in range(length):
            target[i] = _weigh(inner, sums[i], outer, before[i] + after[i])
    elif r == 1:
        left, right = flat[reach - step :], flat[reach + step :]
        for i in range(length):
            total = left[i] + sums[i] + right[i]
            target[i] = _weigh(inner, total, outer, before[i] + after[i])
    else:
        totals = np.zeros(length, np.uint32)
        for d in range(-r, r + 1):
            shifted = flat[reach + d * step :]
            for i in range(length):
                totals[i] += shifted[i]
        for i in range(length):
            target[i] = _weigh(inner, totals[i], outer, before[i] + after[i])


@kernel
def _weigh(inner, total, outer, ends):
    near, far = uint32(inner * uint32(total)), uint32(outer * uint32(ends))
    return uint8(uint32(near + far + uint32(ONE // 2)) >> uint32(24))
