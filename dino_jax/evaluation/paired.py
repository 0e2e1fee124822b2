"""The interval of a gain that two networks' hits on the same queries show.

A paired bootstrap: whole groups of queries are drawn with replacement, the same for both. Where the
best of E evaluations is taken, each interval is one of 1 - 0.05 / E (Bonferroni): with 95 % all of
them hold at once.
"""

from typing import NamedTuple

import numpy as np

DRAWS_AT_ONCE = 256
ERROR = 0.05  # chance that one of the intervals misses


class Gain(NamedTuple):
    """What a change brought.

    Attributes:
      mean: difference of the shares of hits, after minus before.
      low, high: ends of its interval.
    """

    mean: float
    low: float
    high: float

    @property
    def is_proven(self) -> bool:
        """Whether it is more than its own uncertainty."""
        return self.low > 0


def compare(
    before: np.ndarray,
    after: np.ndarray,
    groups: np.ndarray,
    evaluations: int,
    resamples: int = 10_000,
    seed: int = 0,
) -> Gain:
    """The gain in the share of hits with its interval.

    Args:
      before: [Q] bool hits, or the chance of one.
      after: [Q] bool hits of the same queries.
      groups: [Q] integers; queries of one group, such as a SKU, are drawn as a whole.
      evaluations: E, of which the best is taken.
      resamples: draws of the bootstrap.
      seed: of the draws.
    """
    _, place = np.unique(groups, return_inverse=True)
    sizes = np.bincount(place).astype(np.float64)
    sums = np.bincount(place, after.astype(np.float64) - before.astype(np.float64))
    rng, count = np.random.default_rng(seed), len(sizes)
    means = []
    for start in range(0, resamples, DRAWS_AT_ONCE):
        some = min(DRAWS_AT_ONCE, resamples - start)
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=some)
        means.append(drawn @ sums / (drawn @ sizes))
    tail = 100 * ERROR / evaluations / 2
    low, high = np.percentile(np.concatenate(means), [tail, 100 - tail])
    return Gain(float(sums.sum() / sizes.sum()), float(low), float(high))
