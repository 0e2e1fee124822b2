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
      [..., H, h, w]; what is left to 1 went to the cls token and the registers.
    """
    height, width = grid
    rows = attention[..., 0, -height * width :]
    return rows.reshape(*rows.shape[:-1], height, width)


def draw_attention(attention: np.ndarray) -> np.ndarray:
    """A map as colors, its largest weight the brightest: [..., h, w] to [..., h, w, 3] uint8."""
    largest = attention.max(axis=(-2, -1), keepdims=True)
    return apply_heat(attention / np.maximum(largest, np.finfo(np.float32).tiny))


def overlay_attention(image: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """A map over its image.

    Args:
      image: [H, W, 3] uint8.
      attention: [h, w] weights.

    Returns:
      [H, W, 3] uint8.
    """
    return overlay(image, draw_attention(attention))
