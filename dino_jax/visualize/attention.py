"""Where the cls token looks (DINO, arXiv:2104.14294, Section 4.2.2 and Figure 1)."""

from typing import TypeVar

import jax
import numpy as np

from dino_jax.visualize.pictures import apply_heat, overlay

Array = TypeVar("Array", np.ndarray, jax.Array)


def cls_to_patches(attention: Array, grid: tuple[int, int]) -> Array:
    """Attention of the cls token to the patches.

    Args:
      attention: [..., H, T, T] weights of one block; the cls token is the first token, the patches
        are the last h * w.
      grid: (h, w) patches.

    Returns:
      [..., H, h, w]; the rest up to 1 went to the cls token and the registers.
    """
    height, width = grid
    rows = attention[..., 0, -height * width :]
    return rows.reshape(*rows.shape[:-1], height, width)


def keep_mass(attention: np.ndarray, mass: float) -> np.ndarray:
    """The patches that hold most of the attention.

    Sums patches by ascending weight and keeps those after the sum passes 1 - mass, as in the
    official visualize_attention.py.

    Args:
      attention: [..., h, w] weights.
      mass: share of the attention that is kept, in (0, 1].

    Returns:
      bool [..., h, w].
    """
    flat = attention.reshape(*attention.shape[:-2], -1).astype(np.float64)
    order = np.argsort(flat, axis=-1, kind="stable")
    ascending = np.take_along_axis(flat, order, axis=-1)
    total = np.cumsum(ascending, axis=-1) / ascending.sum(axis=-1, keepdims=True)
    kept = np.zeros(flat.shape, bool)
    np.put_along_axis(kept, order, total > 1 - mass, axis=-1)
    return kept.reshape(attention.shape)


def draw_attention(attention: np.ndarray) -> np.ndarray:
    """A map as colors, its largest weight the brightest: [..., h, w] to [..., h, w, 3] uint8."""
    largest = attention.max(axis=(-2, -1), keepdims=True)
    return apply_heat(attention / np.maximum(largest, np.finfo(np.float32).tiny))


def overlay_attention(image: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """Draws a map over its image.

    Args:
      image: [H, W, 3] uint8.
      attention: [h, w] weights.

    Returns:
      [H, W, 3] uint8.
    """
    return overlay(image, draw_attention(attention))
