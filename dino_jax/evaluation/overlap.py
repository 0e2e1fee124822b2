"""Agreement of pixel classes: mIoU and accuracies from a confusion matrix."""

import numpy as np


def count_pairs(predicted: np.ndarray, truth: np.ndarray, classes: int, ignored: int) -> np.ndarray:
    """Pixels by their true and predicted class.

    Args:
      predicted: [H, W] integers in [0, C).
      truth: [H, W] integers in [0, C), or `ignored`.
      classes: C.
      ignored: value of pixels that do not count.

    Returns:
      [C, C] int64; row: truth, column: prediction.
    """
    counts = truth != ignored
    pairs = truth[counts].astype(np.int64) * classes + predicted[counts]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def score_pairs(pairs: np.ndarray) -> dict[str, float]:
    """mIoU, mean accuracy of classes, and accuracy of pixels, in percent.

    Classes that are neither present nor predicted do not count for mIoU, absent ones not for the
    mean accuracy (mmsegmentation).

    Args:
      pairs: [C, C] from `count_pairs`, summed over all images.

    Raises:
      ValueError: if no pixel counts.
    """
    if not pairs.sum():
        raise ValueError("no pixel of the images that can be read has a class")
    right, truth = np.diag(pairs), pairs.sum(axis=1)
    union = truth + pairs.sum(axis=0) - right
    return {
        "mIoU": 100 * float(np.mean(right[union > 0] / union[union > 0])),
        "mean_accuracy": 100 * float(np.mean(right[truth > 0] / truth[truth > 0])),
        "pixel_accuracy": 100 * float(right.sum() / truth.sum()),
    }
