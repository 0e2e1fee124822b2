"""Objects by the first principal component of patches, colored by the next ones.

As the figures of DINOv2 (arXiv:2304.07193, Figure 1): the first component separates objects from
background, jointly over several images; the components of the rest are the colors.
"""

from collections.abc import Sequence

import numpy as np

from dino_jax.visualize.patch_pca import patch_pca, scores_to_rgb

BINS = 256  # bins of the histogram in which the threshold is found


def color_objects(images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Colors patches by what they show, the background black.

    Args:
      images: patch features [h, w, D] of each image; sizes may differ.

    Returns:
      [h, w, 3] uint8 for each image.
    """
    flat = np.concatenate([image.reshape(-1, image.shape[-1]) for image in images])
    border = np.concatenate([_border(*image.shape[:2]).reshape(-1) for image in images])
    kept = find_objects(patch_pca(flat).scores[:, 0], border)
    colors = np.zeros((len(flat), 3), np.uint8)
    if kept.sum() > 1:
        colors[kept] = scores_to_rgb(patch_pca(flat[kept]).scores)
    ends = np.cumsum([image.shape[0] * image.shape[1] for image in images])
    parts = np.split(colors, ends[:-1])
    return [part.reshape(*image.shape[:2], 3) for part, image in zip(parts, images, strict=True)]


def find_objects(scores: np.ndarray, border: np.ndarray) -> np.ndarray:
    """Splits patches in two by a score; objects are the half that touches the border less.

    Args:
      scores: [n] first principal component.
      border: bool [n], patches at the border of their image.

    Returns:
      bool [n].
    """
    above = scores > otsu_threshold(scores)
    shares = [np.mean(border[half]) if half.any() else 1.0 for half in (above, ~above)]
    return above if shares[0] <= shares[1] else ~above


def otsu_threshold(values: np.ndarray) -> float:
    """The value that splits a histogram with the largest variance between the halves (Otsu 1979).

    Args:
      values: [n].
    """
    counts, edges = np.histogram(values, BINS)
    centers = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    sums = np.cumsum(counts * centers)
    means = sums[:-1] / np.maximum(below, 1), (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    between = below * above * (means[0] - means[1]) ** 2
    return float(edges[1 + int(np.argmax(between))])


def _border(height: int, width: int) -> np.ndarray:
    inside = np.zeros((height, width), bool)
    inside[1:-1, 1:-1] = True
    return ~inside
