"""The device's part of `dino_jax.data.recolor_float`: BYOL's and SimCLR's colors in jit."""

import jax
import jax.numpy as jnp

from dino_jax.data.recolor_float import (
    BRIGHTNESS,
    CONTRAST,
    GRAY,
    GRAYSCALE,
    HUE,
    OFFSET,
    SATURATION,
    SOLARIZE,
    WEIGHTS,
)


def recolor_float_view(crops: jax.Array, values: jax.Array, order: jax.Array) -> jax.Array:
    """crops [B, H, W, C] uint8, values [B, P], order [4] -> [B, H, W, C] uint8."""
    columns = values.T[:, :, None, None]  # [P, B, 1, 1]
    planes = jnp.moveaxis(crops, -1, 0).astype(jnp.float32) / 255  # [C, B, H, W]
    is_rgb = len(planes) == 3
    for operation in order:
        planes = jax.lax.switch(operation, _JITTER if is_rgb else _OF_CHANNELS, planes, columns)
    if is_rgb:
        planes = jnp.where(columns[GRAYSCALE] == 1, _gray(planes), planes)
    planes = jnp.where(columns[WEIGHTS] == 1, planes, _blur(planes, columns[WEIGHTS:]))
    planes = jnp.where(planes < columns[SOLARIZE], planes, 1 - planes)
    levels = jnp.floor(_cut(planes) * 255 + 0.5).astype(jnp.uint8)
    return jnp.moveaxis(levels, 0, -1)


def _cut(planes: jax.Array) -> jax.Array:
    return jnp.clip(planes, 0, 1)


def _adjust_brightness(planes: jax.Array, columns: jax.Array) -> jax.Array:
    return _cut(planes * columns[BRIGHTNESS] + columns[OFFSET])


def _adjust_contrast(planes: jax.Array, columns: jax.Array) -> jax.Array:
    means = jnp.mean(planes, axis=(2, 3), keepdims=True)
    return _cut(planes * columns[CONTRAST] + means * (1 - columns[CONTRAST]))


def _adjust_saturation(planes: jax.Array, columns: jax.Array) -> jax.Array:
    factor = columns[SATURATION]
    return jnp.where(factor == 1, planes, _turn(planes, 0.0, factor))


def _adjust_hue(planes: jax.Array, columns: jax.Array) -> jax.Array:
    shift = columns[HUE]
    return jnp.where(shift == 0, planes, _turn(planes, shift, 1.0))


def _leave(planes: jax.Array, columns: jax.Array) -> jax.Array:
    return planes


_JITTER = (_adjust_brightness, _adjust_contrast, _adjust_saturation, _adjust_hue)  # by column
_OF_CHANNELS = (_adjust_brightness, _adjust_contrast, _leave, _leave)


def _turn(planes: jax.Array, shift: jax.Array | float, factor: jax.Array | float) -> jax.Array:
    """HSV and back, the hue turned and the saturation multiplied and cut to 1."""
    red, green, blue = planes
    value = jnp.max(planes, axis=0)
    span = value - jnp.min(planes, axis=0)
    divisor = jnp.where(span > 0, span, 1)
    sextants = jnp.where(green == value, (blue - red) / divisor + 2, (red - green) / divisor + 4)
    sextants = jnp.where(red == value, (green - blue) / divisor, sextants)
    sextants = jnp.where(span > 0, sextants, 0) + 6 * shift
    saturation = jnp.minimum(span / jnp.where(value > 0, value, 1) * factor, 1)

    def channel(offset: float) -> jax.Array:
        place = sextants + offset + 6
        place -= 6 * jnp.floor(place / 6)
        return value * (1 - saturation * jnp.clip(jnp.minimum(place, 4 - place), 0, 1))

    return jnp.stack([channel(offset) for offset in (5.0, 3.0, 1.0)])


def _gray(planes: jax.Array) -> jax.Array:
    """[3, B, H, W] -> [B, H, W]."""
    return GRAY[0] * planes[0] + GRAY[1] * planes[1] + GRAY[2] * planes[2]


def _blur(planes: jax.Array, weights: jax.Array) -> jax.Array:
    """One Gaussian along the columns and the rows, black around; weights [R + 1, B, 1, 1]."""
    for axis in (2, 3):
        planes = _filter(planes, weights, axis)
    return planes


def _filter(planes: jax.Array, weights: jax.Array, axis: int) -> jax.Array:
    reach, length = len(weights) - 1, planes.shape[axis]
    padding = [(reach, reach) if index == axis else (0, 0) for index in range(planes.ndim)]
    padded = jnp.pad(planes, padding)

    def shifted(distance: int) -> jax.Array:
        start = reach + distance
        return jax.lax.slice_in_dim(padded, start, start + length, axis=axis)

    total = weights[0] * planes
    for distance in range(1, reach + 1):
        total += weights[distance] * (shifted(distance) + shifted(-distance))
    return total
