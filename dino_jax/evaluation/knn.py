"""Weighted k-NN classification of frozen features (arXiv:1805.01978, Section 3.4)."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

TEST_TILE = 1024  # test images whose similarities with all training images are in memory at once


def knn_accuracy(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    *,
    k: Sequence[int],
    temperature: float,
) -> dict[int, float]:
    """Top-1 accuracy in percent for several k.

    Features are L2-normalised; a neighbour of cosine similarity s votes for its class with exp(s /
    temperature).

    Args:
      train_features: [N, D].
      train_labels: [N] integers >= 0.
      test_features: [M, D].
      test_labels: [M] integers >= 0.
      k: numbers of neighbours, each in [1, N].
      temperature: of the vote, > 0; 0.07 in the papers.

    Raises:
      ValueError: if there are no images, labels are missing, or a k is out of range.
    """
    if not len(train_labels) or not len(test_labels):
        raise ValueError(f"k-NN needs images: {len(train_labels)} train, {len(test_labels)} test")
    if min(train_labels.min(), test_labels.min()) < 0:
        raise ValueError("k-NN needs a label for every image; put the images into class folders")
    if not k or min(k) < 1 or max(k) > len(train_labels):
        raise ValueError(
            f"every k must be between 1 and the number of training images ({len(train_labels)}), "
            f"got {tuple(k)}"
        )
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    train, correct = normalize_rows(train_features), dict.fromkeys(k, 0)
    for start in range(0, len(test_labels), TEST_TILE):
        tile = slice(start, start + TEST_TILE)
        test = normalize_rows(test_features[tile])
        votes = _votes(test, train, train_labels, tuple(k), float(temperature), classes)
        for size, predicted in votes.items():
            correct[size] += int(np.sum(np.asarray(predicted) == test_labels[tile]))
    return {size: 100.0 * hits / len(test_labels) for size, hits in correct.items()}


@partial(jax.jit, static_argnames=("k", "temperature", "classes"))
def _votes(test, train, train_labels, k, temperature, classes) -> dict[int, jax.Array]:
    """[T] predicted class of every test image, for every k."""
    similarity = jnp.matmul(test, train.T, precision="highest")
    nearest, index = jax.lax.top_k(similarity, max(k))
    weights = jnp.exp(nearest / temperature)
    one_hot = jax.nn.one_hot(train_labels[index], classes)
    return {
        size: jnp.argmax(jnp.einsum("tk,tkc->tc", weights[:, :size], one_hot[:, :size]), axis=-1)
        for size in k
    }


def normalize_rows(features: np.ndarray) -> np.ndarray:
    """Rows of L2 norm 1, float32; a row of zeros stays one."""
    features = features.astype(np.float32)
    norm = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(norm, 1e-12)
