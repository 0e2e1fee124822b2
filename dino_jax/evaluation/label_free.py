"""Quality of features from several views of each image, without labels."""

import numpy as np

from dino_jax.evaluation.knn import normalize_rows

LEAST_VARIANCE = 1e-4  # of a feature within an image (LiDAR, Section 4)
LEAST_SHARE = 1e-7  # of a direction in the spread of all


def retrieval(views: np.ndarray) -> float:
    """Share of second views whose most similar first view, by cosine, is of their own image.

    Chance is 1 / N; images that look the same count as misses of each other.

    Args:
      views: [N, Q, D], Q views of N images; the second and later ones search the first ones.

    Returns:
      A number in [0, 1].
    """
    gallery = normalize_rows(views[:, 0])
    others = views[:, 1:].swapaxes(0, 1)
    found = [np.argmax(normalize_rows(view) @ gallery.T, axis=1) for view in others]
    return float(np.mean(np.stack(found) == np.arange(len(views))))


def lidar(views: np.ndarray) -> float:
    """LiDAR (arXiv:2312.04000, Eq. 3): effective rank of what tells images from their views.

    The rank of a linear discriminant analysis in which each image is a class and its views are the
    samples: exp of the entropy of the normalized eigenvalues of W^(-1/2) B W^(-1/2), where B is the
    covariance of the images' means, and W that of views around the mean of their image.

    Args:
      views: [N, Q, D] features, any scale; the paper has N = 1000 and Q = 50.

    Returns:
      A number between 1 and min(N - 1, D); nan if a number is not finite or all images are alike.
    """
    views = views.astype(np.float64)
    if not np.all(np.isfinite(views)):
        return float("nan")
    means = views.mean(axis=1)
    between = _covariance(means)
    if not np.any(between):
        return float("nan")
    inner = (views - means[:, None]).reshape(-1, views.shape[-1])
    within = inner.T @ inner / len(inner) + LEAST_VARIANCE * np.eye(views.shape[-1])
    root = np.linalg.cholesky(within)
    half = np.linalg.solve(root, between)
    eigenvalues = np.linalg.eigvalsh(np.linalg.solve(root, half.T))
    positive = np.maximum(eigenvalues, 0.0)
    shares = positive / positive.sum() + LEAST_SHARE
    return float(np.exp(-np.sum(shares * np.log(shares))))


def decay_exponent(features: np.ndarray) -> float:
    """α of a power law j^-α of the eigenvalues of the covariance (α-ReQ, NeurIPS 2022, Section 2).

    A least-squares line through the logarithms of the first half of the eigenvalues; features that
    generalize have α near 1, larger ones keep few directions.

    Args:
      features: [N, D], one view per image.

    Returns:
      α; nan if fewer than two eigenvalues are positive or a number is not finite.
    """
    if not np.all(np.isfinite(features)):
        return float("nan")
    eigenvalues = np.linalg.eigvalsh(_covariance(features.astype(np.float64)))[::-1]
    noise = len(eigenvalues) * np.finfo(np.float64).eps * max(eigenvalues[0], 0.0)
    half = eigenvalues[: max(len(eigenvalues) // 2, 2)]
    positive = half[half > noise]
    if len(positive) < 2:
        return float("nan")
    ranks = np.log(np.arange(1, len(positive) + 1))
    return float(-np.polyfit(ranks, np.log(positive), deg=1)[0])


def _covariance(rows: np.ndarray) -> np.ndarray:
    centered = rows - rows.mean(axis=0)
    return centered.T @ centered / len(rows)
