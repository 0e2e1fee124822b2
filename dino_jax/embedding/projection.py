"""Fewer numbers per image: principal components of a sample, or a random projection."""

import io
import os
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from dino_jax.foreign.files import read_bytes
from dino_jax.workdir.paths import written_whole

MAX_BYTES = 1 << 30  # of a projection


class Projection(NamedTuple):
    """x -> (x - mean) @ matrix.

    Attributes:
      mean: [D] float32.
      matrix: [D, d] float32.
    """

    mean: np.ndarray
    matrix: np.ndarray

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] to [..., d]."""
        return jnp.matmul(x - self.mean, self.matrix, precision="highest")

    def save(self, path: epath.Path) -> None:
        """Writes mean and matrix as NPZ, the whole file or none."""
        with written_whole(os.fspath(path)) as place, Path(place).open("wb") as file:
            np.savez(file, mean=self.mean, matrix=self.matrix)


def load_projection(path: epath.Path) -> Projection:
    """Reads the file that `Projection.save` has written."""
    with np.load(io.BytesIO(read_bytes(path, MAX_BYTES)), allow_pickle=False) as arrays:
        return Projection(arrays["mean"], arrays["matrix"])


def check_pca(shape: tuple[int, ...], dim: int) -> None:
    """Checks that vectors of a shape [N, D] have so many components.

    Raises:
      ValueError: if they have fewer.
    """
    if dim > min(shape):
        raise ValueError(
            f"--dim={dim}: PCA of {shape[0]} sample images with {shape[1]} numbers each gives 1 to "
            f"{min(shape)} components"
        )


def check_random(width: int, dim: int) -> None:
    """Checks that a random projection makes vectors smaller.

    Raises:
      ValueError: if it does not.
    """
    if dim > width:
        raise ValueError(f"--dim={dim}: a projection of {width} numbers gives 1 to {width}")


def fit_pca(vectors: np.ndarray, dim: int) -> Projection:
    """Principal components of a sample.

    Args:
      vectors: [N, D].
      dim: d, number of components, by descending variance.

    Raises:
      ValueError: if `dim` exceeds what the sample supports.
    """
    check_pca(vectors.shape, dim)
    rows = vectors.astype(np.float64)
    mean = rows.mean(axis=0)
    centered = rows - mean
    _, components = np.linalg.eigh(centered.T @ centered)
    matrix = components[:, : -dim - 1 : -1]
    # A component's sign is arbitrary: here its largest entry is positive.
    signs = np.sign(matrix[np.abs(matrix).argmax(axis=0), np.arange(dim)])
    return Projection(mean.astype(np.float32), (matrix * signs).astype(np.float32))


def draw_random(width: int, dim: int, seed: int = 0) -> Projection:
    """A Gaussian matrix that keeps scalar products on average (Johnson-Lindenstrauss).

    Args:
      width: D, numbers per image before.
      dim: d, numbers per image after.
      seed: seed of the draw.

    Raises:
      ValueError: if d is not from 1 to D.
    """
    check_random(width, dim)
    matrix = np.random.default_rng(seed).normal(size=(width, dim)) / np.sqrt(dim)
    return Projection(np.zeros(width, np.float32), matrix.astype(np.float32))
