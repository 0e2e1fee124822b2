"""Sampled parameters as the numbers that `recolor.py` or `recolor_float.py` apply, or the device.

The crops of one call have one arithmetic, `CropConfig.colors`.
"""

import math
from collections.abc import Sequence

import numpy as np
from numba import float32

from dino_jax.data.augment import CropConfig, CropParameters
from dino_jax.data.recolor import ONE, Photometric, recolor_crops
from dino_jax.data.recolor_float import blur_reach, gaussian_weights, recolor_float_crops
from dino_jax.workdir.host_kernel import kernel

_JITTER = ("brightness", "contrast", "saturation", "hue")  # by column


def encode_photometric(
    parameters: Sequence[CropParameters], configs: Sequence[CropConfig], taps: int
) -> Photometric:
    """Turns sampled parameters into numbers.

    Args:
      parameters: parameters of N crops.
      configs: configs of the same crops.
      taps: T, at least `blur_taps(configs)`.

    Returns:
      values [N, BLUR + T] and order [N, 4].
    """
    encode = _ENCODE[configs[0].colors]
    pairs = zip(parameters, configs, strict=True)
    values = [encode(one, config, taps) for one, config in pairs]
    order = [_encode_order(one) for one in parameters]
    return Photometric(np.array(values, np.float32), np.array(order, np.uint8))


def recolor(colors: str, crops: np.ndarray, photometric: Photometric, out: np.ndarray) -> None:
    """Applies operations on crops in the order of the official codes.

    Args:
      colors: arithmetic, "pillow" or "float".
      crops: [N, 3, h, w] uint8, one plane per color; overwritten.
      photometric: operations on N crops, from `encode_photometric`.
      out: [N, h, w, 3] uint8, contiguous; receives the result.
    """
    {"pillow": recolor_crops, "float": recolor_float_crops}[colors](crops, photometric, out)


def blur_taps(configs: Sequence[CropConfig]) -> int:
    """The number of columns after the first ones of all rows: weights that hold the largest blur.

    In float32 an addend of brightness comes first.
    """
    if configs[0].colors == "float":
        return 2 + blur_reach(configs[0].size[0])
    return max(blur_weights(config.blur_radius[1])[0] for config in configs) + 2


@kernel
def blur_weights(radius):
    """The box filter that Pillow applies three times per axis for a Gaussian blur.

    Gwosdek et al., Theoretical Foundations of Gaussian Convolution by Extended Box Filtering.

    Args:
      radius: standard deviation in pixels, >= 0; float.

    Returns:
      r, the weight of the pixels at distances 0 to r, and that of those at distance r + 1.
    """
    one, two, three = float32(1), float32(2), float32(3)  # Pillow computes in single precision
    variance = float32(radius) * float32(radius) / three
    length = float32(math.sqrt(12.0 * variance + 1.0))
    whole = float32(math.floor((length - 1.0) / 2.0))
    after = whole + one
    part = (two * whole + one) * (whole * after - three * variance)
    reach = whole + part / (float32(6) * (variance - after * after))
    r = int(reach)
    inner = int(float32(ONE) / (reach * two + one))
    return r, inner, (ONE - (2 * r + 1) * inner) // 2


def _encode_pillow(parameters: CropParameters, config: CropConfig, taps: int) -> list[float]:
    factors = dict(parameters.jitter)
    hue = factors.get("hue")
    weights = [ONE] + [0] * (taps - 1)
    if parameters.blur_radius is not None:
        r, inner, outer = blur_weights(parameters.blur_radius)
        weights = [inner] * (r + 1) + [outer] + [0] * (taps - r - 2)
    return [
        factors.get("brightness", 1.0),
        factors.get("contrast", 1.0),
        factors.get("saturation", 1.0),
        -1 if hue is None else int(255 * hue) % 256,  # as torchvision
        parameters.grayscale,
        config.solarize_threshold if parameters.solarize else 256,
        *weights,
    ]


def _encode_float(parameters: CropParameters, config: CropConfig, taps: int) -> list[float]:
    factors = dict(parameters.jitter)
    brightness = factors.get("brightness")
    weights = [1.0] + [0.0] * (taps - 2)
    if parameters.blur_radius:
        weights = gaussian_weights(parameters.blur_radius, taps - 2)
    return [
        1.0 if config.brightness_adds or brightness is None else brightness,
        factors.get("contrast", 1.0),
        factors.get("saturation", 1.0),
        factors.get("hue", 0.0),
        parameters.grayscale,
        config.solarize_threshold / 256 if parameters.solarize else 2.0,
        brightness if config.brightness_adds and brightness is not None else 0.0,
        *weights,
    ]


_ENCODE = {"pillow": _encode_pillow, "float": _encode_float}


def _encode_order(parameters: CropParameters) -> list[int]:
    order = [_JITTER.index(name) for name, _ in parameters.jitter]
    return order + [column for column in range(len(_JITTER)) if column not in order]
