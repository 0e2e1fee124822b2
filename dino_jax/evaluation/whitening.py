"""Generalized mean pooling and whitening, for the descriptors of copy detection."""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

Array = TypeVar("Array", np.ndarray, jax.Array)

SMALLEST_SHARE = 1e-5  # of the largest eigenvalue; smaller ones are raised to it (official code)


def gem(patches: Array, power: float = 4.0, smallest: float = 1e-6) -> jax.Array:
    """Generalized mean over patches (arXiv:1711.02512, Eq. 3; DINO, Section 4.2.1).

    Args:
      patches: [..., N, D] features; values below `smallest` count as `smallest`.
      power: power of the mean, > 0; 1 is the mean, infinity the maximum.
      smallest: > 0.

    Returns:
      [..., D].
    """
    return jnp.mean(jnp.maximum(patches, smallest) ** power, axis=-2) ** (1 / power)


class Whitening(NamedTuple):
    """An affine map after which features of the training set have unit covariance.

    Attributes:
      mean: [D] float32, subtracted first.
      projection: [D, D] float32; column i is an eigenvector over the root of its eigenvalue.
    """

    mean: np.ndarray
    projection: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """[..., D] to [..., D], largest component first."""
        return (features - self.mean) @ self.projection


def fit_whitening(features: np.ndarray, reference: bool = False) -> Whitening:
    """Learns a whitening.

    Args:
      features: [N, D].
      reference: use the second moments around 0 as the covariance, as the official code does
        although it subtracts the mean before whitening; otherwise those around the mean.

    Raises:
      ValueError: if there are fewer than two features, or all are equal.
    """
    if len(features) < 2:
        raise ValueError(f"whitening is learned from at least 2 images, got {len(features)}")
    x = features.astype(np.float64)
    mean = x.mean(axis=0)
    around = x if reference else x - mean
    values, vectors = np.linalg.eigh(around.T @ around / len(x))
    if not values[-1] > 0:
        raise ValueError(f"whitening: the features of all {len(features)} images are equal")
    values = np.maximum(values, SMALLEST_SHARE * values[-1])[::-1]
    projection = vectors[:, ::-1] / np.sqrt(values)
    return Whitening(mean.astype(np.float32), projection.astype(np.float32))
