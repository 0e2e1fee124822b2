"""Whether tuned vectors find more than frozen ones on held-out SKUs, beyond what chance explains.

Recall@1: the photographs of held-out SKUs are queries, and a query is not its own answer. The gain
has an interval, see `dino_jax.evaluation.paired`: whole SKUs are drawn.

The gain over chance is measured likewise, and has to be proven, too: where SKUs are wrong, nothing
is found more often than by chance, however unlucky the frozen features were on these few hits.
"""

from typing import NamedTuple

import numpy as np

from dino_jax.tuning.skus import NONE, Skus

ROWS_AT_ONCE = 1024


class Queries(NamedTuple):
    """What is measured.

    Attributes:
      gallery: [G] photographs that are searched, ascending.
      skus: [G] their SKUs.
      asked: [G] bool, those of held-out SKUs, which are the queries.
    """

    gallery: np.ndarray
    skus: np.ndarray
    asked: np.ndarray

    def hits(self, vectors: np.ndarray) -> np.ndarray:
        """[Q] bool, whether the nearest other photograph is of the same SKU; ties by row.

        Args:
          vectors: [G, d] float32 of length 1 of the gallery.
        """
        queries, found = np.flatnonzero(self.asked), []
        for start in range(0, len(queries), ROWS_AT_ONCE):
            own = queries[start : start + ROWS_AT_ONCE]
            similar = vectors[own] @ vectors.T
            similar[np.arange(len(own)), own] = -np.inf
            found.append(self.skus[similar.argmax(axis=1)] == self.skus[own])
        return np.concatenate(found)

    def chance(self) -> np.ndarray:
        """[Q] float64, how often a photograph drawn from the others is of the same SKU."""
        having = self.skus != NONE
        sizes = np.bincount(self.skus[having])[self.skus[self.asked]]
        return (sizes - 1) / (len(self.gallery) - 1)


def make_queries(skus: Skus, held_out: np.ndarray, everything: bool) -> Queries:
    """Photographs of held-out SKUs as queries.

    Args:
      skus: of all photographs.
      held_out: numbers of the SKUs that are held out.
      everything: whether all photographs are searched, also those without a SKU, or only those of
        the held-out SKUs (as in Stanford Online Products).
    """
    asked = np.isin(skus.of, held_out)
    gallery = np.arange(len(skus.of)) if everything else np.flatnonzero(asked)
    return Queries(gallery, skus.of[gallery], asked[gallery])


def to_unit(vectors: np.ndarray) -> np.ndarray:
    """[n, d] float32 rows of length 1; zeros stay zeros."""
    rows = np.asarray(vectors, np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)
