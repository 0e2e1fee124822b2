"""The first principal components of patch features as colors (DINOv2, arXiv:2304.07193, Fig. 1)."""

from typing import NamedTuple

import numpy as np

COMPONENTS = 3  # red, green, blue


class PatchPca(NamedTuple):
    """Principal components of patches.

    Attributes:
      scores: [..., 3] float32 coordinates of each patch.
      explained: [3] share of the variance, descending.
    """

    scores: np.ndarray
    explained: np.ndarray


def patch_pca(features: np.ndarray) -> PatchPca:
    """The first three principal components, jointly over all patches of all images.

    The sign of a component is arbitrary; here its largest coordinate is positive.

    Args:
      features: [..., D] patch features, D >= 3.

    Returns:
      Scores [..., 3]; zeros where the features have fewer than three directions.
    """
    flat = features.reshape(-1, features.shape[-1]).astype(np.float64)
    centered = flat - flat.mean(axis=0)
    eigenvalues, vectors = np.linalg.eigh(centered.T @ centered)
    scores = centered @ vectors[:, : -COMPONENTS - 1 : -1]
    signs = np.sign(scores[np.abs(scores).argmax(axis=0), np.arange(COMPONENTS)])
    explained = eigenvalues[: -COMPONENTS - 1 : -1] / max(eigenvalues.sum(), 1e-30)
    shape = (*features.shape[:-1], COMPONENTS)
    return PatchPca((scores * signs).reshape(shape).astype(np.float32), explained)


def align_signs(scores: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Flips components so that colors stay the same.

    Args:
      scores: [..., 3] of some patches.
      reference: [..., 3] earlier scores of the same patches.

    Returns:
      The scores; each component correlates with that of the reference by at least 0.
    """
    products = np.sum(scores * reference, axis=tuple(range(scores.ndim - 1)))
    return scores * np.where(products < 0, -1, 1).astype(scores.dtype)


def scores_to_rgb(scores: np.ndarray) -> np.ndarray:
    """Each component from its 1st to its 99th percentile as red, green and blue.

    Args:
      scores: [..., 3]; percentiles are joint over all leading axes.

    Returns:
      [..., 3] uint8; a component without spread is gray.
    """
    flat = scores.reshape(-1, COMPONENTS)
    low, high = np.percentile(flat, [1, 99], axis=0)
    spread = high - low
    share = np.where(spread > 0, (scores - low) / np.where(spread > 0, spread, 1), 0.5)
    return np.round(255 * np.clip(share, 0, 1)).astype(np.uint8)
