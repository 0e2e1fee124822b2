"""Whether tuned vectors find more than frozen ones on held-out SKUs, beyond what chance explains.

Recall@1: the photographs of held-out SKUs are queries, and a query is not its own answer. The gain
has an interval of a paired bootstrap: whole SKUs are drawn with replacement, the same for both. The
best of E evaluations is taken, so each interval is one of 1 - 0.05 / E (Bonferroni): with 95 % all
of them hold at once.

The gain over chance is measured likewise, and has to be proven, too: where SKUs are wrong, nothing
is found more often than by chance, however unlucky the frozen features were on these few hits.
"""

from typing import NamedTuple

import numpy as np

from dino_jax.tuning.skus import NONE, Skus

ROWS_AT_ONCE = 1024
DRAWS_AT_ONCE = 256
ERROR = 0.05  # chance that one of the intervals misses


class Gain(NamedTuple):
    """What tuning brought.

    Attributes:
      mean: difference of Recall@1, tuned minus what it is compared with.
      low, high: ends of its interval.
    """

    mean: float
    low: float
    high: float

    @property
    def is_proven(self) -> bool:
        """Whether it is more than its own uncertainty."""
        return self.low > 0


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


def compare(
    frozen: np.ndarray,
    tuned: np.ndarray,
    skus: np.ndarray,
    evaluations: int,
    resamples: int = 10_000,
    seed: int = 0,
) -> Gain:
    """The gain in Recall@1 with its interval.

    Args:
      frozen: [Q] bool hits, or the chance of one.
      tuned: [Q] bool hits of the same queries.
      skus: [Q] their SKUs, which are drawn as wholes.
      evaluations: E, of which the best is taken.
      resamples: draws of the bootstrap.
      seed: of the draws.
    """
    _, place = np.unique(skus, return_inverse=True)
    sizes = np.bincount(place).astype(np.float64)
    sums = np.bincount(place, tuned.astype(np.float64) - frozen.astype(np.float64))
    rng, count = np.random.default_rng(seed), len(sizes)
    means = []
    for start in range(0, resamples, DRAWS_AT_ONCE):
        some = min(DRAWS_AT_ONCE, resamples - start)
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=some)
        means.append(drawn @ sums / (drawn @ sizes))
    tail = 100 * ERROR / evaluations / 2
    low, high = np.percentile(np.concatenate(means), [tail, 100 - tail])
    return Gain(float(sums.sum() / sizes.sum()), float(low), float(high))
