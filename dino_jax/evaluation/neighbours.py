"""Nearest neighbors among frozen features, and the agreement of two sets of features about them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from dino_jax.evaluation.knn import normalize_rows

TILE = 1024  # images whose similarities to all others are in memory at once


def shared_neighbours(nearest_a: np.ndarray, nearest_b: np.ndarray) -> float:
    """Mean share of the nearest neighbors of an image that two networks have in common.

    Needs no labels. Two unrelated rankings agree in k / (N - 1) of the neighbors. Features that
    are all equal have no order, and then the first images count as the nearest ones: check the
    effective rank too before taking agreement for quality.

    Args:
      nearest_a: [N, k] from `nearest_neighbours`.
      nearest_b: [N, k] of the same images in the same order.

    Returns:
      A number in [0, 1].

    Raises:
      ValueError: if the numbers of images differ.
    """
    shared = [np.intersect1d(a, b).size for a, b in zip(nearest_a, nearest_b, strict=True)]
    return float(np.mean(shared)) / nearest_a.shape[1]


def nearest_neighbours(features: np.ndarray, k: int) -> np.ndarray:
    """The k most similar other images of every image by cosine similarity, exactly.

    Args:
      features: [N, D] of any scale.
      k: number of neighbors, in [1, N - 1].

    Returns:
      [N, k] int32 indices, the nearest first.

    Raises:
      ValueError: if k is out of range.
    """
    if not 1 <= k < len(features):
        raise ValueError(
            f"k must be between 1 and the number of other images ({len(features) - 1}), got {k}"
        )
    rows = jnp.asarray(normalize_rows(features))
    indices = np.arange(len(rows), dtype=np.int32)
    tiles = [
        _nearest(rows, indices[start : start + TILE], k) for start in range(0, len(rows), TILE)
    ]
    return np.concatenate(tiles)


@partial(jax.jit, static_argnames="k")
def _nearest(rows: jax.Array, queries: jax.Array, k: int) -> jax.Array:
    """[T, k] indices of the rows most similar to those at `queries` [T], without themselves."""
    similarity = jnp.matmul(rows[queries], rows.T, precision="highest")
    itself = queries[:, None] == jnp.arange(len(rows))
    return jax.lax.top_k(jnp.where(itself, -jnp.inf, similarity), k)[1]
