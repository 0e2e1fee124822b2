"""J and F, the agreement of object masks (DAVIS, CVPR 2016, Section 5; arXiv:1704.00675)."""

import math
from typing import NamedTuple

import numpy as np

TOLERANCE = 0.008  # share of the image diagonal within which boundaries match
RECALL = 0.5  # frames above count for recall
PARTS = 4  # of a video, for decay


class Statistics(NamedTuple):
    """Summary of the values of one object in all frames.

    Attributes:
      mean: mean of all.
      recall: share above 0.5.
      decay: mean of the first quarter minus mean of the last.
    """

    mean: float
    recall: float
    decay: float


def region_similarity(predicted: np.ndarray, truth: np.ndarray, void: np.ndarray) -> float:
    """J: intersection over union; 1 if both masks are empty.

    Args:
      predicted: bool [H, W].
      truth: bool [H, W].
      void: bool [H, W], pixels that do not count.
    """
    counts = ~void
    union = np.sum((predicted | truth) & counts)
    return float(np.sum(predicted & truth & counts) / union) if union else 1.0


def contour_accuracy(
    predicted: np.ndarray, truth: np.ndarray, void: np.ndarray, tolerance: float = TOLERANCE
) -> float:
    """F: harmonic mean of precision and recall of the boundary pixels.

    A boundary pixel is right if the other boundary has one within ceil(tolerance * diagonal)
    pixels, in a straight line.

    Args:
      predicted: bool [H, W].
      truth: bool [H, W].
      void: bool [H, W], pixels that do not count.
      tolerance: share of the diagonal.
    """
    radius = math.ceil(tolerance * math.hypot(*truth.shape))
    lines = find_boundary(predicted & ~void), find_boundary(truth & ~void)
    if not lines[0].any() or not lines[1].any():
        return float(lines[0].any() == lines[1].any())
    precision = np.mean(_distance_to(lines[1])[lines[0]] <= radius)
    recall = np.mean(_distance_to(lines[0])[lines[1]] <= radius)
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def find_boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels that differ from their neighbor to the right, below, or both.

    Args:
      mask: bool [H, W].

    Returns:
      bool [H, W]; neighbors outside of the image equal the pixel itself, and the last pixel, in the
        corner, is never a boundary.
    """
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, below, diagonal = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return (mask != right) | (mask != below) | (mask != diagonal)


def describe_object(values: np.ndarray) -> Statistics:
    """Mean, recall and decay of one object.

    Args:
      values: [F] J or F of every frame that counts.
    """
    edges = np.round(np.linspace(1, len(values), PARTS + 1) + 1e-10).astype(np.int64) - 1
    first, last = values[edges[0] : edges[1] + 1], values[edges[-2] : edges[-1] + 1]
    return Statistics(
        float(np.mean(values)),
        float(np.mean(values > RECALL)),
        float(np.mean(first) - np.mean(last)),
    )


def _distance_to(line: np.ndarray) -> np.ndarray:
    """[H, W] straight distance of every pixel to the nearest one of a line, in pixels."""
    from scipy import ndimage  # 0.2 s, for this function only

    return np.asarray(ndimage.distance_transform_edt(~line))
