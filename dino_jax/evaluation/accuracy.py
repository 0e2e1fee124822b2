"""Top-k accuracy: how often the right class is among the first ones."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

TOP = (1, 5)


class TopAccuracy(NamedTuple):
    """Share of images in percent whose class is the first, or among the first five."""

    top1: float
    top5: float

    def metrics(self, prefix: str, classes: int) -> dict[str, float]:
        """Accuracies for a result; with up to five classes, top-5 says nothing."""
        parts = self._asdict() if classes > max(TOP) else {"top1": self.top1}
        return {prefix + name: value for name, value in parts.items()}


def rank_of(scores: jax.Array, labels: jax.Array) -> jax.Array:
    """Number of classes before the right one; of equal scores, the smaller index comes first.

    NaN scores come first: a classifier that has diverged is never right.

    Args:
      scores: [..., M, C].
      labels: [M].

    Returns:
      [..., M] int32; 0: the right class is the first.
    """
    own = jnp.take_along_axis(scores, jnp.broadcast_to(labels, scores.shape[:-1])[..., None], -1)
    classes = jnp.arange(scores.shape[-1])
    behind = (scores < own) | ((scores == own) & (classes >= labels[:, None]))
    itself = classes == labels[:, None]
    return jnp.sum(~(behind | itself), axis=-1, dtype=jnp.int32)


def top_accuracy(ranks: np.ndarray) -> TopAccuracy:
    """The accuracy for [M] ranks from `rank_of`."""
    return TopAccuracy(*(100.0 * float(np.mean(ranks < n)) for n in TOP))
