"""Classes of every pixel of an image from logits of the patches of overlapping windows."""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from dino_jax.evaluation.bilinear import Taps, bilinear_taps, resize

UNIT = 256  # sizes are rounded up to it, so that few programs are compiled
ROWS = 32  # of the result that are made at once; must divide UNIT

Place = tuple[int, int]


def window_places(height: int, width: int, side: int, stride: int) -> list[Place]:
    """(top, left) of windows that cover an image (mmsegmentation, slide inference).

    Args:
      height: of the image, at least `side`.
      width: of the image, at least `side`.
      side: of a window.
      stride: from window to window; the last one of a row or column ends with the image.
    """
    tops, lefts = (
        [min(index * stride, size - side) for index in range(math.ceil((size - side) / stride) + 1)]
        for size in (height, width)
    )
    return [(top, left) for top in tops for left in lefts]


def classify_pixels(
    logits: np.ndarray,
    places: Sequence[Place],
    patch_size: int,
    size: tuple[int, int],
    original: tuple[int, int],
) -> np.ndarray:
    """The class of every pixel of the original image.

    Logits are enlarged (bilinear), averaged where windows overlap, resized once more, and the
    largest wins.

    Args:
      logits: [n, h, w, C] of square windows.
      places: n, from `window_places`.
      patch_size: pixels per patch.
      size: (H, W) of the image that the windows are of.
      original: (H', W') of the image before it was resized.

    Returns:
      [H', W'] uint8.
    """
    canvas = tuple(_round_up(side) for side in size)
    taps = [bilinear_taps(n, m) for n, m in zip(size, original, strict=True)]
    rows, columns = (_pad(axis) for axis in taps)
    classes = _classify(logits, np.array(places), rows, columns, patch_size, canvas)
    return np.asarray(classes)[: original[0], : original[1]]


@partial(jax.jit, static_argnames=("patch_size", "canvas"))
def _classify(
    logits: jax.Array,
    places: jax.Array,
    rows: Taps,
    columns: Taps,
    patch_size: int,
    canvas: tuple[int, int],
) -> jax.Array:
    _, height, width, classes = logits.shape
    shape = height * patch_size, width * patch_size

    def add_window(sums, window):
        logits, place = window
        start = (place[0], place[1], 0)
        before = jax.lax.dynamic_slice(sums, start, (*shape, classes + 1))
        # The last channel counts the windows.
        large = jnp.pad(resize(logits, *shape), ((0, 0), (0, 0), (0, 1)), constant_values=1.0)
        return jax.lax.dynamic_update_slice(sums, before + large, start), None

    empty = jnp.zeros((*canvas, classes + 1), jnp.float32)
    sums, _ = jax.lax.scan(add_window, empty, (logits, places))
    mean = sums[..., :-1] / jnp.maximum(sums[..., -1:], 1.0)

    def classify_rows(taps: Taps) -> jax.Array:
        mixed = _mix(mean[taps.below], mean[taps.above], taps.share[:, None, None])
        wide = _mix(mixed[:, columns.below], mixed[:, columns.above], columns.share[:, None])
        return jnp.argmax(wide, axis=-1).astype(jnp.uint8)

    blocks = Taps(*(jnp.reshape(axis, (-1, ROWS)) for axis in rows))
    found = jax.lax.map(classify_rows, blocks)
    return found.reshape(-1, found.shape[-1])


def _mix(below: jax.Array, above: jax.Array, share: jax.Array) -> jax.Array:
    return below * (1 - share) + above * share


def _pad(taps: Taps) -> Taps:
    padding = _round_up(len(taps.share)) - len(taps.share)
    return Taps(*(np.pad(axis, (0, padding)) for axis in taps))


def _round_up(size: int) -> int:
    return -(-size // UNIT) * UNIT
