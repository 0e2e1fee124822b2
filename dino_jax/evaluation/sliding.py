"""Classes of every pixel of an image from logits of the patches of overlapping windows."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

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
      height: height of the image, at least `side`.
      width: width of the image, at least `side`.
      side: side of a window.
      stride: distance from window to window; the last one of a row or column ends with the image.
    """
    tops, lefts = (
        [min(index * stride, size - side) for index in range(math.ceil((size - side) / stride) + 1)]
        for size in (height, width)
    )
    return [(top, left) for top in tops for left in lefts]


class View(NamedTuple):
    """One view of an image, window by window.

    Attributes:
      logits: [n, h, w, C] of square windows.
      places: n, from `window_places`.
      size: (H, W) of the image from which the windows are cut.
      mirrored: whether that image is mirrored.
    """

    logits: np.ndarray
    places: Sequence[Place]
    size: tuple[int, int]
    mirrored: bool = False


def classify_pixels(
    views: Sequence[View], patch_size: int, original: tuple[int, int]
) -> np.ndarray:
    """The class of every pixel of the original image.

    Logits are enlarged (bilinear), averaged where windows overlap, and resized once more; the
    probabilities of all views are averaged, and the largest wins.

    Args:
      views: views of the same image.
      patch_size: pixels per patch.
      original: (H', W') of the image before it was resized.

    Returns:
      [H', W'] uint8.
    """
    canvases = tuple((_round_up(view.size[0]), _round_up(view.size[1])) for view in views)
    inputs = [(view.logits, np.array(view.places), *_taps(view, original)) for view in views]
    return np.asarray(_classify(inputs, patch_size, canvases))[: original[0], : original[1]]


def _taps(view: View, original: tuple[int, int]) -> tuple[Taps, Taps]:
    """Source positions of the rows and columns of the original image."""
    rows, columns = (bilinear_taps(n, m) for n, m in zip(view.size, original, strict=True))
    if view.mirrored:
        columns = Taps(*(axis[::-1] for axis in columns))
    return _pad(rows), _pad(columns)


@partial(jax.jit, static_argnames=("patch_size", "canvases"))
def _classify(
    views: list[Any], patch_size: int, canvases: tuple[tuple[int, int], ...]
) -> jax.Array:
    means = [
        _spread(logits, places, patch_size, canvas)
        for (logits, places, _, _), canvas in zip(views, canvases, strict=True)
    ]

    def classify_rows(taps: list[Taps]) -> jax.Array:
        total = jnp.zeros(())
        for mean, rows, (_, _, _, columns) in zip(means, taps, views, strict=True):
            mixed = _mix(mean[rows.below], mean[rows.above], rows.share[:, None, None])
            before, after = mixed[:, columns.below], mixed[:, columns.above]
            total += jax.nn.softmax(_mix(before, after, columns.share[:, None]))
        return jnp.argmax(total, axis=-1).astype(jnp.uint8)

    blocks = [Taps(*(jnp.reshape(axis, (-1, ROWS)) for axis in rows)) for _, _, rows, _ in views]
    found = jax.lax.map(classify_rows, blocks)
    return found.reshape(-1, found.shape[-1])


def _spread(
    logits: jax.Array, places: jax.Array, patch_size: int, canvas: tuple[int, int]
) -> jax.Array:
    """[*canvas, C] logits of every pixel that a window covers, averaged where they overlap."""
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
    return sums[..., :-1] / jnp.maximum(sums[..., -1:], 1.0)


def _mix(below: jax.Array, above: jax.Array, share: jax.Array) -> jax.Array:
    return below * (1 - share) + above * share


def _pad(taps: Taps) -> Taps:
    padding = _round_up(len(taps.share)) - len(taps.share)
    return Taps(*(np.pad(axis, (0, padding)) for axis in taps))


def _round_up(size: int) -> int:
    return -(-size // UNIT) * UNIT
