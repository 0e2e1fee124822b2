"""Crops, resizes and flips with Pillow's antialiased bicubic and bilinear filters, bit by bit.

Pillow rounds to uint8 between a horizontal and a vertical pass. Here both passes are the same loop,
a weighted sum of whole rows of bytes, which the compiler turns into vector instructions: an image
is transposed once, and the result of the horizontal pass of every crop is transposed back.
"""

import math

import numpy as np
from numba import int32, uint8, uint64

from dino_jax.workdir.host_kernel import kernel

_LANES = 32  # rows are summed in multiples of this many bytes; buffers hold the excess
_TAPS = 12  # weights are padded with zeros by less than this; buffers hold the rows for them
_PRECISION = 22  # bits of Pillow's fixed-point weights
_HALF = 1 << (_PRECISION - 1)
_EDGE = 1e-6  # pixels by which rounding may move the edge of a box
_LARGEST = (256 << _PRECISION) - 1


def split_columns(image: np.ndarray) -> np.ndarray:
    """Transposes an image for `resize_crops`.

    Args:
      image: [H, W, C] uint8.

    Returns:
      [C, W + padding, H + padding] uint8; the padding is not initialized.
    """
    height, width, channels = image.shape
    sides = (_round_up(width + _TAPS, 8), _round_up(height + _LANES, 64))
    columns = np.empty((channels, *sides), np.uint8)
    if channels == 3:
        _fill_columns(np.ascontiguousarray(image).reshape(height, -1), columns)
    else:
        columns[:, :width, :height] = image.transpose(2, 1, 0)
    return columns


def resize_crops(
    columns: np.ndarray,
    boxes: np.ndarray,
    flips: np.ndarray,
    height: int,
    width: int,
    bilinear: np.ndarray | None = None,
) -> np.ndarray:
    """Does `image.crop(box).resize((width, height), BICUBIC)` and mirrors, for several boxes.

    Equal to Pillow bit by bit where boxes are whole numbers and that starts with the horizontal
    pass: always up to Pillow 12, and in Pillow 13 unless the height shrinks more than the width.
    Of boxes with fractions, pixels that lie in part outside are taken whole.

    Args:
      columns: the image, from `split_columns`.
      boxes: [N, 4] float64 left, top, right, bottom in pixels, inside the image.
      flips: [N] bool, whether to mirror left and right.
      height: h, height of the results in pixels.
      width: w, width of the results in pixels.
      bilinear: [N] bool, whether the filter is BILINEAR; None: never.

    Returns:
      [N, C, h, w] uint8, one plane per channel.
    """
    shape = (len(boxes), len(columns), height, width)
    size = math.prod(shape)
    crops = np.empty(size + _LANES, np.uint8)[:size].reshape(shape)
    if bilinear is None:
        bilinear = np.zeros(len(boxes), bool)
    _fill_crops(columns, boxes, flips, bilinear, crops)
    return crops


def _round_up(number: int, unit: int) -> int:
    return (number + unit - 1) // unit * unit


_padded = kernel(_round_up)


@kernel
def _fill_columns(rows, columns):
    """rows [H, 3 W], columns as `split_columns` returns them."""
    height, width = rows.shape[0], rows.shape[1] // 3
    words = columns.view(np.uint64)
    strip = np.empty((3, 8, 8, columns.shape[1]), np.uint8)
    for top in range(0, height, 64):
        for y in range(top, min(top + 64, height)):
            row, r, m = rows[y], y % 8, (y - top) // 8
            red, green, blue = strip[0, r, m], strip[1, r, m], strip[2, r, m]
            for x in range(width):
                red[x] = row[3 * x]
                green[x] = row[3 * x + 1]
                blue[x] = row[3 * x + 2]
        for color in range(3):
            _transpose(strip[color], words[color, :, top // 8 :])


@kernel
def _transpose(rows, columns):
    """Transposes bytes, eight at a time; row 8 m + r is rows[r, m].

    rows [8, M, X] uint8, X a multiple of 8, is overwritten; columns [X, M] uint64.
    """
    words = rows.view(np.uint64)
    _exchange(words, 4, uint64(32), uint64(0x00000000FFFFFFFF))
    _exchange(words, 2, uint64(16), uint64(0x0000FFFF0000FFFF))
    _exchange(words, 1, uint64(8), uint64(0x00FF00FF00FF00FF))
    for x in range(words.shape[2]):
        for r in range(8):
            for m in range(words.shape[1]):
                columns[8 * x + r, m] = words[r, m, x]


@kernel
def _exchange(words, distance, shift, mask):
    """Swaps the high bits of words[r] with the low bits of words[r + distance]."""
    flat = words.reshape(8, words.shape[1] * words.shape[2])
    for r in range(8):
        if r & distance == 0:
            low, high = flat[r], flat[r + distance]
            for i in range(low.size):
                swap = ((low[i] >> shift) ^ high[i]) & mask
                low[i] ^= swap << shift
                high[i] ^= swap


@kernel
def _fill_crops(columns, boxes, flips, bilinear, crops):
    height, width = crops.shape[2:]
    blocks = (width + 7) // 8
    upright = np.arange(height)
    for n in range(len(boxes)):
        left, x_first, x_weights = _windows(boxes[n, 0], boxes[n, 2], width, bilinear[n])
        top, y_first, y_weights = _windows(boxes[n, 1], boxes[n, 3], height, bilinear[n])
        lanes = _padded(math.ceil(boxes[n, 3] - _EDGE) - top, _LANES)
        x = np.arange(width)[::-1] if flips[n] else np.arange(width)
        x = x % 8 * blocks + x // 8  # the order that _transpose wants
        middle = np.empty((8 * blocks, lanes), np.uint8)
        rows = np.empty((lanes + _TAPS, _padded(width, _LANES)), np.uint8)
        for color in range(len(columns)):
            _mix(columns[color, :, top:], x_first + left, x_weights, lanes, middle, x)
            _transpose(middle.reshape(8, blocks, lanes), rows.view(np.uint64))
            _mix(rows, y_first, y_weights, _padded(width, _LANES), crops[n, color], upright)


@kernel
def _windows(begin, end, count, bilinear):
    """Pillow's bicubic or bilinear windows between two places of an axis.

    Returns:
      The first pixel of the range; for each output pixel its first pixel, from there on, [count];
      and its weights [count, T]. T is a multiple of 4; weights are int32 fixed-point numbers,
      padded with zeros.
    """
    start = math.floor(begin + _EDGE)
    size = math.ceil(end - _EDGE) - start
    offset = begin - start
    scale = (end - begin) / count
    stretch = max(scale, 1.0)
    reach = stretch if bilinear else 2.0 * stretch
    first = np.empty(count, np.int64)
    weights = np.zeros((count, _padded(int(2 * reach) + 2, 4)), np.int32)
    window = np.empty(weights.shape[1], np.float64)
    most = 0
    for i in range(count):
        center = (i + 0.5) * scale + offset
        low = max(int(center - reach + 0.5), 0)
        taps = min(int(center + reach + 0.5), size) - low
        total = 0.0
        for t in range(taps):
            x = (t + low - center + 0.5) * (1.0 / stretch)
            window[t] = max(1.0 - abs(x), 0.0) if bilinear else _bicubic(x)
            total += window[t]
        for t in range(taps):
            weight = window[t] / total * (1 << _PRECISION)
            weights[i, t] = int(weight + 0.5) if weight >= 0 else int(weight - 0.5)
        first[i] = low
        most = max(most, taps)
    return start, first, weights[:, : _padded(most, 4)]


@kernel
def _bicubic(x):
    """Keys' cubic convolution with a = -1/2."""
    x = abs(x)
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1.0
    if x < 2.0:
        return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return 0.0


@kernel
def _mix(rows, first, weights, lanes, out, order):
    """out[order[n], i] = sum over t of weights[n, t] * rows[first[n] + t, i] for all i < lanes.

    `order` rises where `lanes` is more than a row of `out` holds: the next row overwrites the rest.
    """
    if weights.shape[1] == 4:
        _mix_4(rows, first, weights, lanes, out, order)
    elif weights.shape[1] == 8:
        _mix_8(rows, first, weights, lanes, out, order)
    elif weights.shape[1] == 12:
        _mix_12(rows, first, weights, lanes, out, order)
    else:
        _mix_many(rows, first, weights, lanes, out, order)


@kernel
def _sum_4(rows, n, i, a, b, c, d):
    # int32 holds it, as it does in Pillow; without saying so, numba computes with slower 64 bits.
    return int32(rows[n, i] * a + rows[n + 1, i] * b + rows[n + 2, i] * c + rows[n + 3, i] * d)


@kernel
def _to_byte(total):
    rounded = int32(total + _HALF)
    return uint8(min(max(rounded, int32(0)), int32(_LARGEST)) >> _PRECISION)


@kernel
def _mix_4(rows, first, weights, lanes, out, order):
    for n in range(len(first)):
        a, b, c, d = weights[n, 0], weights[n, 1], weights[n, 2], weights[n, 3]
        low, to = first[n], order[n]
        for i in range(lanes):
            out[to, i] = _to_byte(_sum_4(rows, low, i, a, b, c, d))


@kernel
def _mix_8(rows, first, weights, lanes, out, order):
    for n in range(len(first)):
        a, b, c, d = weights[n, 0], weights[n, 1], weights[n, 2], weights[n, 3]
        e, f, g, h = weights[n, 4], weights[n, 5], weights[n, 6], weights[n, 7]
        low, to = first[n], order[n]
        for i in range(lanes):
            total = _sum_4(rows, low, i, a, b, c, d) + _sum_4(rows, low + 4, i, e, f, g, h)
            out[to, i] = _to_byte(total)


@kernel
def _mix_12(rows, first, weights, lanes, out, order):
    for n in range(len(first)):
        a, b, c, d = weights[n, 0], weights[n, 1], weights[n, 2], weights[n, 3]
        e, f, g, h = weights[n, 4], weights[n, 5], weights[n, 6], weights[n, 7]
        j, k, m, o = weights[n, 8], weights[n, 9], weights[n, 10], weights[n, 11]
        low, to = first[n], order[n]
        for i in range(lanes):
            total = _sum_4(rows, low, i, a, b, c, d) + _sum_4(rows, low + 4, i, e, f, g, h)
            out[to, i] = _to_byte(total + _sum_4(rows, low + 8, i, j, k, m, o))


@kernel
def _mix_many(rows, first, weights, lanes, out, order):
    sums = np.empty(lanes, np.int32)
    for n in range(len(first)):
        sums[:] = 0
        taps = min(weights.shape[1], len(rows) - first[n] - 3)  # the rest is cut off: zeros
        for t in range(0, taps, 4):
            a, b = weights[n, t], weights[n, t + 1]
            c, d = weights[n, t + 2], weights[n, t + 3]
            low = first[n] + t
            for i in range(lanes):
                sums[i] += _sum_4(rows, low, i, a, b, c, d)
        to = order[n]
        for i in range(lanes):
            out[to, i] = _to_byte(sums[i])
