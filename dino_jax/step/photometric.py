"""The device back end of the augmentation: color jitter, grayscale, blur and solarization in jit.

The workers send cut and resized uint8 crops, and for each of them a row of numbers
(`dino_jax.data.recolor` names its columns). Pillow's result is computed here, up to
the rounding of float32, for every image on the device that holds it; that of float32 arithmetic in
photometric_float.py.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dino_jax.data.recolor import (
    BLUR,
    BRIGHTNESS,
    CONTRAST,
    GRAYSCALE,
    HUE,
    ONE,
    SATURATION,
    SOLARIZE,
)
from dino_jax.step.photometric_float import recolor_float_view

Batch = dict[str, jax.Array]


def apply_photometric(batch: Batch) -> Batch:
    """Recolors the crops of a batch as its parameters say; pure, for use inside jit.

    Saturation, hue and grayscale leave crops that are not RGB as they are, and the contrast of each
    of their channels is by its own mean.

    Sharding the batch axis of every entry needs no communication except for the jitter order, a few
      bytes: it is the same in all rows, and that of row 0 is used.

    Args:
      batch: for any groups of crops "GROUP_crops": [B, V, H, W, C] uint8, "GROUP_photometric" or,
        of float32 arithmetic, "GROUP_colors": [B, V, P] float32 and "GROUP_jitter_order":
        [B, V, 4] uint8, and anything else. A batch of the host back end has no such parameters and
        is returned unchanged.

    Returns:
      The batch without parameters; the crops are uint8 as before.
    """
    recolored = dict(batch)
    for suffix, recolor in {"_photometric": _recolor_view, "_colors": recolor_float_view}.items():
        for group in [name.removesuffix(suffix) for name in batch if name.endswith(suffix)]:
            values = recolored.pop(f"{group}{suffix}")
            order = recolored.pop(f"{group}_jitter_order")[0]
            crops = batch[f"{group}_crops"]
            recolored[f"{group}_crops"] = _recolor(recolor, crops, values, order)
    return recolored


def _recolor(
    recolor: Callable[..., jax.Array], crops: jax.Array, values: jax.Array, order: jax.Array
) -> jax.Array:
    """crops [B, V, H, W, C] uint8, values [B, V, P], order [V, 4]; one view after another."""
    views = (jnp.moveaxis(crops, 1, 0), jnp.moveaxis(values, 1, 0), order)
    return jnp.moveaxis(jax.lax.map(lambda view: recolor(*view), views), 0, 1)


def _recolor_view(crops: jax.Array, values: jax.Array, order: jax.Array) -> jax.Array:
    """crops [B, H, W, C] uint8, values [B, P], order [4]."""
    columns = values.T[:, :, None, None]  # [P, B, 1, 1]
    planes = jnp.moveaxis(crops, -1, 0)  # [C, B, H, W], uint8 after every operation
    is_rgb = len(planes) == 3
    for operation in order:
        planes = jax.lax.switch(operation, _JITTER if is_rgb else _OF_CHANNELS, planes, columns)
    if is_rgb:
        planes = jnp.where(columns[GRAYSCALE] == 1, _gray(planes).astype(jnp.uint8), planes)
    planes = _blur(planes, columns[BLUR:])
    planes = jnp.where(planes < columns[SOLARIZE], planes, 255 - planes)
    return jnp.moveaxis(planes, 0, -1)


def _gray(planes: jax.Array) -> jax.Array:
    """ITU-R 601-2 luma with 16 bits, as in Pillow: [B, H, W] int32."""
    red, green, blue = planes.astype(jnp.int32)
    return (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16


def _blend(base: jax.Array | int, planes: jax.Array, factor: jax.Array) -> jax.Array:
    """Cuts the fraction off, as Pillow does."""
    blended = base + factor * (planes.astype(jnp.int32) - base).astype(jnp.float32)
    return jnp.clip(blended, 0, 255).astype(jnp.uint8)


def _adjust_brightness(planes: jax.Array, columns: jax.Array) -> jax.Array:
    return _blend(0, planes, columns[BRIGHTNESS])


def _adjust_contrast(planes: jax.Array, columns: jax.Array) -> jax.Array:
    return _blend(_mean_level(_gray(planes)), planes, columns[CONTRAST])


def _adjust_contrasts(planes: jax.Array, columns: jax.Array) -> jax.Array:
    return _blend(_mean_level(planes.astype(jnp.int32)), planes, columns[CONTRAST])


def _mean_level(levels: jax.Array) -> jax.Array:
    """Rounded mean of [..., H, W] int32: [..., 1, 1]."""
    pixels = levels.shape[-2] * levels.shape[-1]
    return (2 * levels.sum((-2, -1), keepdims=True) + pixels) // (2 * pixels)


def _adjust_saturation(planes: jax.Array, columns: jax.Array) -> jax.Array:
    return _blend(_gray(planes), planes, columns[SATURATION])


def _adjust_hue(planes: jax.Array, columns: jax.Array) -> jax.Array:
    """PIL's uint8 HSV and back; a negative shift leaves the planes as they are."""
    red, green, blue = planes.astype(jnp.float32)
    value = jnp.maximum(jnp.maximum(red, green), blue)
    low = jnp.minimum(jnp.minimum(red, green), blue)
    span = value - low
    part = (2 * value + low - red - green - blue) / jnp.maximum(span, 1)  # of value - middle
    sextants = jnp.where(green == low, 5 - part, 3 + part)
    sextants = jnp.where(green == value, jnp.where(red == low, 3 - part, 1 + part), sextants)
    sextants = jnp.where(red == value, jnp.where(blue == low, 1 - part, part - 1), sextants)
    turns = sextants / 6
    hue = jnp.floor(jnp.where(turns < 0, turns + 1, turns) * 255) + columns[HUE]
    hue = jnp.where(hue >= 256, hue - 256, hue)
    saturation = jnp.floor(span / jnp.maximum(value, 1) * 255) / 255
    turned = [_from_hsv(hue * 6 / 255 + offset, saturation, value) for offset in (5, 3, 1)]
    return jnp.where(columns[HUE] < 0, planes, jnp.stack(turned))


def _from_hsv(distance: jax.Array, saturation: jax.Array, value: jax.Array) -> jax.Array:
    """One channel; `distance` along the color circle of circumference 6, below 12."""
    distance = jnp.where(distance >= 6, distance - 6, distance)
    part = jnp.clip(jnp.minimum(distance, 4 - distance), 0, 1)
    return jnp.floor(value * (1 - saturation * part) + 0.5).astype(jnp.uint8)


def _leave(planes: jax.Array, columns: jax.Array) -> jax.Array:
    return planes


_JITTER = (_adjust_brightness, _adjust_contrast, _adjust_saturation, _adjust_hue)  # by column
_OF_CHANNELS = (_adjust_brightness, _adjust_contrasts, _leave, _leave)


def _blur(planes: jax.Array, weights: jax.Array) -> jax.Array:
    """Three box filters along the rows, then three along the columns; weights [T, B, 1, 1].

    Fixed-point numbers with rounding to uint8 after each, as in Pillow; edges are repeated.
    """
    weights = weights.astype(jnp.uint32)
    for axis in (3, 2):
        for _ in range(3):
            planes = _filter(planes, weights, axis)
    return planes


def _filter(planes: jax.Array, weights: jax.Array, axis: int) -> jax.Array:
    reach, length = len(weights) - 1, planes.shape[axis]
    padding = [(reach, reach) if index == axis else (0, 0) for index in range(planes.ndim)]
    padded = jnp.pad(planes, padding, mode="edge")

    def shifted(distance: int) -> jax.Array:
        start = reach + distance
        return jax.lax.slice_in_dim(padded, start, start + length, axis=axis).astype(jnp.uint32)

    total = weights[0] * shifted(0) + ONE // 2
    for distance in range(1, reach + 1):
        total += weights[distance] * (shifted(distance) + shifted(-distance))
    return (total >> 24).astype(jnp.uint8)
