"""Features of an image at several scales, as DINO retrieves buildings (spec of v1, section 7.3)."""

from collections.abc import Callable

import numpy as np

from dino_jax.evaluation.bilinear import rescale

SCALES = (1.0, 2**-0.5, 0.5)  # official eval_image_retrieval.py


def multi_scale_features(
    embed: Callable[[np.ndarray], np.ndarray], images: np.ndarray, reference: bool = False
) -> np.ndarray:
    """Mean of the features at all `SCALES`, of length 1.

    Args:
      embed: [B, H, W, C] -> [B, D].
      images: [B, H, W, C] float32, normalized for the network.
      reference: see `combine_scales`.

    Returns:
      [B, D] float32.
    """
    return combine_scales(
        np.stack([embed(scale_image(images, scale)) for scale in SCALES]), reference
    )


def scale_image(images: np.ndarray, scale: float) -> np.ndarray:
    """Shrinks [..., H, W, C] floats: bilinear and not antialiased; unchanged for scale 1."""
    return images if scale == 1 else rescale(images, scale)


def combine_scales(features: np.ndarray, reference: bool = False) -> np.ndarray:
    """Means over scales, scaled to length 1.

    Args:
      features: [S, B, D] for every scale and image, not normalized.
      reference: divide by one norm of the whole batch, as the official code does, which is right
        for B = 1 only; otherwise every image by its own.

    Returns:
      [B, D] float32.
    """
    mean = features.astype(np.float32).mean(axis=0)
    norm = np.linalg.norm(mean) if reference else np.linalg.norm(mean, axis=-1, keepdims=True)
    return mean / np.maximum(norm, 1e-12)
