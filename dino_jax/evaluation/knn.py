"""Weighted k-NN classification of frozen features (arXiv:1805.01978, Section 3.4)."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dino_jax.evaluation.accuracy import TopAccuracy, rank_of, top_accuracy
from dino_jax.evaluation.search import QUERY_TILE, Neighbours, find_nearest, local_mesh

WITHOUT_VOTES = np.iinfo(np.int32).max  # rank of a class that no neighbor has


def dino_weights(similarities: jax.Array, temperature: float) -> jax.Array:
    """Votes of the neighbors as DINO counts them: exp(s / temperature).

    Args:
      similarities: [M, k] cosine similarities.
      temperature: > 0.011, below which float32 overflows.

    Returns:
      [M, k].
    """
    return jnp.exp(similarities / temperature)


def dinov2_weights(similarities: jax.Array, temperature: float) -> jax.Array:
    """Votes of the neighbors as DINOv2 counts them: softmax(s / temperature) over all of them.

    They equal DINO's up to a factor for each image, so they rank classes alike, and they do not
    overflow.

    Args:
      similarities: [M, k] cosine similarities of all retrieved neighbors: DINOv2 scales with the
        200 nearest, and for a smaller k takes the first ones of the result.
      temperature: > 0.

    Returns:
      [M, k].
    """
    return jax.nn.softmax(similarities / temperature, axis=-1)


WEIGHTS: dict[str, Callable[[jax.Array, float], jax.Array]] = {
    "dino": dino_weights,
    "dinov2": dinov2_weights,
}


def class_votes(weights: jax.Array, labels: jax.Array, classes: int) -> jax.Array:
    """Sums the votes of the neighbors by class.

    Args:
      weights: [M, k] from `dino_weights` or `dinov2_weights`.
      labels: [M, k] classes of the neighbors.
      classes: C.

    Returns:
      [M, C] float32.
    """
    rows = jnp.arange(len(labels))[:, None]
    return jnp.zeros((len(labels), classes)).at[rows, labels].add(weights)


def knn_accuracy(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    *,
    k: Sequence[int],
    temperature: float,
    convention: str = "dinov2",
    mesh: Mesh | None = None,
) -> dict[int, TopAccuracy]:
    """Accuracy for several k by cosine similarity.

    A class is among the first n if it has votes and fewer than n classes have more; of equal ones,
    the class of the smaller index comes first.

    Args:
      train_features: [N, D] of any scale.
      train_labels: [N] integers >= 0.
      test_features: [M, D] of any scale.
      test_labels: [M] integers >= 0.
      k: numbers of neighbors, each in [1, N].
      temperature: temperature of the vote, > 0; 0.07 in the papers.
      convention: how votes are weighted, a key of `WEIGHTS`.
      mesh: mesh of devices; None: those of this process.

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
    train, test = normalize_rows(train_features), normalize_rows(test_features)
    nearest = find_nearest(train, test, max(k), mesh or local_mesh())
    ranks = _rank_all(nearest, train_labels, test_labels, k, temperature, convention)
    return {size: top_accuracy(ranks[size]) for size in k}


def leave_one_out_accuracy(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    k: Sequence[int],
    temperature: float,
    convention: str = "dinov2",
    mesh: Mesh | None = None,
) -> dict[int, TopAccuracy]:
    """As `knn_accuracy`, with every image classified by all others.

    Args:
      features: [N, D] of any scale.
      labels: [N] integers >= 0.
      k: numbers of neighbors, each in [1, N - 1].
      temperature: temperature of the vote, > 0.
      convention: how votes are weighted, a key of `WEIGHTS`.
      mesh: mesh of devices; None: those of this process.

    Raises:
      ValueError: if labels are missing or a k is out of range.
    """
    ranks = leave_one_out_ranks(
        features, labels, k=k, temperature=temperature, convention=convention, mesh=mesh
    )
    return {size: top_accuracy(ranks[size]) for size in k}


def leave_one_out_ranks(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    k: Sequence[int],
    temperature: float,
    convention: str = "dinov2",
    mesh: Mesh | None = None,
) -> dict[int, np.ndarray]:
    """[N] int32 for every k: classes before the right one of each image, by the votes of others.

    Arguments and errors are those of `leave_one_out_accuracy`.
    """
    if len(labels) and labels.min() < 0:
        raise ValueError("k-NN needs a label for every image; put the images into class folders")
    if not k or min(k) < 1 or max(k) >= len(labels):
        raise ValueError(
            f"every k must be between 1 and the number of other images ({len(labels) - 1}), got "
            f"{tuple(k)}"
        )
    rows = normalize_rows(features)
    nearest = _without_self(find_nearest(rows, rows, max(k) + 1, mesh or local_mesh()))
    return _rank_all(nearest, labels, labels, k, temperature, convention)


def _without_self(nearest: Neighbours) -> Neighbours:
    """The neighbors [N, k] of [N, k + 1], without the row itself.

    A row that is not among its own neighbors has k + 1 equal ones: then the last one goes.
    """
    itself = nearest.indices == np.arange(len(nearest.indices))[:, None]
    itself[~itself.any(axis=1), -1] = True
    kept = (len(itself), itself.shape[1] - 1)
    return Neighbours(*(values[~itself].reshape(kept) for values in nearest))


def _rank_all(
    nearest: Neighbours,
    train_labels: np.ndarray,
    test_labels: np.ndarray,
    k: Sequence[int],
    temperature: float,
    convention: str,
) -> dict[int, np.ndarray]:
    """[M] ranks of the right classes by the vote of the neighbors, for every k."""
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    found = []
    for start in range(0, len(test_labels), QUERY_TILE):
        tile = slice(start, start + QUERY_TILE)
        found.append(
            _ranks(
                nearest.similarities[tile],
                train_labels[nearest.indices[tile]],
                test_labels[tile],
                k=tuple(k),
                temperature=float(temperature),
                classes=classes,
                convention=convention,
            )
        )
    return {size: np.concatenate([ranks[size] for ranks in found]) for size in k}


@partial(jax.jit, static_argnames=("k", "temperature", "classes", "convention"))
def _ranks(
    similarities: jax.Array,
    neighbour_labels: jax.Array,
    labels: jax.Array,
    *,
    k: tuple[int, ...],
    temperature: float,
    classes: int,
    convention: str,
) -> dict[int, jax.Array]:
    """[T] rank of the right class of every image, for every k."""
    weights = WEIGHTS[convention](similarities, temperature)

    def rank(size: int) -> jax.Array:
        votes = class_votes(weights[:, :size], neighbour_labels[:, :size], classes)
        has_votes = jnp.take_along_axis(votes, labels[:, None], axis=1)[:, 0] > 0
        return jnp.where(has_votes, rank_of(votes, labels), WITHOUT_VOTES)

    return {size: rank(size) for size in k}


def normalize_rows(features: np.ndarray) -> np.ndarray:
    """Rows of L2 norm 1, float32; a row of zeros stays one."""
    features = features.astype(np.float32)
    norm = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(norm, 1e-12)
