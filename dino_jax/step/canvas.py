"""The canvas back end of the augmentation: crops are cut and resized in jit, by matrix products.

The workers send whole images and where the crops are (`dino_jax.data.canvas` names the columns).
Cutting, resizing with Pillow's antialiased filters and mirroring are linear along each axis:
a crop is W_y · image · W_x^T with one row of weights per row or column of the crop. As in Pillow
the columns come first, and what they give is rounded to uint8. Weights are fixed-point numbers, of
16 bits where Pillow has 22, so that all sums are of integers and exact, in whatever order and on
whatever devices they are made.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from dino_jax.data.canvas import BILINEAR, BOTTOM, FLIP, FRAME, LEFT, RIGHT, TOP

Batch = dict[str, jax.Array]
_ONE = 1 << 15  # weights are multiples of 1 / this; their sum times 255 has 24 bits, as float32 has
_LOW_BITS = 8  # of a weight, in a product of its own where products are of bfloat16
_EDGE = 1e-3  # pixels by which the rounding of float32 may move the edge of a box


def cut_crops(batch: Batch, sizes: Mapping[str, tuple[int, int]]) -> Batch:
    """Cuts, resizes and mirrors the crops of a batch; pure, for use inside jit.

    Sharding the batch axis of every entry needs no communication.

    Args:
      batch: "canvas": [B, F, C, H, W] uint8, for any groups of crops "GROUP_boxes": [B, V,
        BOX_COLUMNS] float32, and anything else. A batch of another back end has no canvas and is
        returned unchanged.
      sizes: (height, width) of the crops by group, in pixels.

    Returns:
      The batch with "GROUP_crops": [B, V, h, w, C] uint8 instead of canvas and boxes.
    """
    if "canvas" not in batch:
        return batch
    suffix = "_boxes"
    made = {name: x for name, x in batch.items() if name != "canvas" and not name.endswith(suffix)}
    for group in [name.removesuffix(suffix) for name in batch if name.endswith(suffix)]:
        made[f"{group}_crops"] = _cut(batch["canvas"], batch[f"{group}{suffix}"], sizes[group])
    return made


def _cut(canvas: jax.Array, boxes: jax.Array, size: tuple[int, int]) -> jax.Array:
    """canvas [B, F, C, H, W] uint8, boxes [B, V, BOX_COLUMNS]; one view after another."""
    views = jnp.moveaxis(boxes, 1, 0)
    return jnp.moveaxis(jax.lax.map(lambda view: _cut_view(canvas, view, size), views), 0, 1)


def _cut_view(canvas: jax.Array, boxes: jax.Array, size: tuple[int, int]) -> jax.Array:
    """canvas [B, F, C, H, W] uint8, boxes [B, BOX_COLUMNS] -> [B, h, w, C] uint8."""
    image = _choose_frame(canvas, boxes[:, FRAME])
    height, width = size
    flips = boxes[:, FLIP] == 1
    bilinear = boxes[:, BILINEAR] == 1
    across = _weights(boxes[:, LEFT], boxes[:, RIGHT], width, canvas.shape[4], bilinear)
    across = jnp.where(flips[:, None, None], across[:, ::-1], across)
    down = _weights(boxes[:, TOP], boxes[:, BOTTOM], height, canvas.shape[3], bilinear)
    columns = _to_levels(_multiply("bcyx,bwx->bcyw", image, across))
    return _to_levels(_multiply("bcyw,bhy->bhwc", columns, down))


def _choose_frame(canvas: jax.Array, frames: jax.Array) -> jax.Array:
    """[B, F, C, H, W], [B] -> [B, C, H, W]; without an index, so that devices have no gather."""
    image = canvas[:, 0]
    for frame in range(1, canvas.shape[1]):
        image = jnp.where((frames == frame)[:, None, None, None], canvas[:, frame], image)
    return image


def _weights(
    low: jax.Array, high: jax.Array, count: int, length: int, bilinear: jax.Array
) -> jax.Array:
    """Pillow's antialiased bicubic (a = -1/2) or bilinear filter along one axis.

    Args:
      low: [B] float32, where the boxes begin on the axis, in pixels.
      high: [B] float32, where they end.
      count: n, number of output pixels.
      length: L, number of input pixels.
      bilinear: [B] bool, whether the filter is the bilinear one.

    Returns:
      [B, n, L] float32 whole numbers; every row sums to about `_ONE`, and pixels outside of the box
      have no weight.
    """
    low, high = low[:, None, None], high[:, None, None]
    scale = (high - low) / count
    centers = low + (jnp.arange(count)[:, None] + 0.5) * scale
    pixels = jnp.arange(length)
    distances = jnp.abs(pixels + 0.5 - centers) / jnp.maximum(scale, 1)
    inside = (pixels >= jnp.floor(low + _EDGE)) & (pixels < jnp.ceil(high - _EDGE))
    levels = jnp.where(bilinear[:, None, None], jnp.maximum(1 - distances, 0), _bicubic(distances))
    weights = jnp.where(inside, levels, 0)
    return jnp.round(weights * (_ONE / weights.sum(-1, keepdims=True)))


def _bicubic(x: jax.Array) -> jax.Array:
    """Keys' cubic convolution with a = -1/2, of distances >= 0."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0))


def _to_levels(sums: jax.Array) -> jax.Array:
    return jnp.clip(jnp.floor(sums / _ONE + 0.5), 0, 255).astype(jnp.uint8)


def _multiply(equation: str, levels: jax.Array, weights: jax.Array) -> jax.Array:
    """The exact product of uint8 levels and whole float32 weights up to `_ONE`."""
    return jax.lax.platform_dependent(
        levels,
        weights,
        cpu=lambda levels, weights: multiply_float32(equation, levels, weights),
        default=lambda levels, weights: multiply_bfloat16(equation, levels, weights),
    )


def multiply_float32(equation: str, levels: jax.Array, weights: jax.Array) -> jax.Array:
    """One product in float32, for CPUs."""
    precise = jax.lax.Precision.HIGHEST
    return jnp.einsum(equation, levels.astype(jnp.float32), weights, precision=precise)


def multiply_bfloat16(equation: str, levels: jax.Array, weights: jax.Array) -> jax.Array:
    """Two products in bfloat16, in which levels and each half of a weight are exact."""
    high = jnp.round(weights / (1 << _LOW_BITS))
    low = weights - high * (1 << _LOW_BITS)

    def product(part: jax.Array) -> jax.Array:
        numbers = (levels.astype(jnp.bfloat16), part.astype(jnp.bfloat16))
        return jnp.einsum(equation, *numbers, preferred_element_type=jnp.float32)

    return product(high) * (1 << _LOW_BITS) + product(low)
