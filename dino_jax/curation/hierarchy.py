"""Clusters of clusters (arXiv:2405.15613): each level groups the centroids of the one below.

All centroids weigh the same, whatever their sizes: that is what flattens the distribution. From the
second level on, or wherever more than one row of a cluster is resampled, the nearest rows of every
cluster are clustered again and everything is assigned to the new centroids.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dino_jax.curation.kmeans import Clusters, kmeans, nearest_members, sorted_members
from dino_jax.curation.nearest import Compare, centers_of, nearest, numpy_compare
from dino_jax.curation.shard_kmeans import random_state

# Published for 743 million web images: clusters of each level, and how many of the nearest rows of
# each cluster are clustered again (1: none are).
WEB_IMAGES = 743_000_000
WEB_CLUSTERS, WEB_SAMPLES = (10_000_000, 500_000, 50_000, 10_000), (1, 10, 5, 3)
ROUNDS, ITERATIONS = 10, 50
FEWEST = 8  # clusters of a level that is worth having


class Level(NamedTuple):
    """How one level is made.

    Attributes:
      clusters: number of clusters.
      sample: nearest rows of each cluster that are clustered again; with 1 none are.
    """

    clusters: int
    sample: int


def plan_levels(rows: int, clusters: Sequence[int], samples: Sequence[int]) -> list[Level]:
    """The levels that are asked for, or the published ones in proportion to the number of rows.

    Args:
      rows: number of rows.
      clusters: of each level, the lowest first; () for the published proportions.
      samples: as many, or () for those published.

    Raises:
      ValueError: if levels do not get smaller, or there are other numbers of samples.
    """
    if not clusters:
        scaled = [round(count * rows / WEB_IMAGES) for count in WEB_CLUSTERS]
        clusters = [count for count in scaled if count >= FEWEST] or [max(1, round(rows**0.5))]
    if any(above >= below for below, above in itertools.pairwise(clusters)):
        raise ValueError(f"--clusters={list(clusters)}: each level must be smaller than the last")
    if samples and len(samples) != len(clusters):
        raise ValueError(f"--samples has {len(samples)} numbers, --clusters {len(clusters)}")
    published = [WEB_SAMPLES[min(level, 3)] for level in range(len(clusters))]
    chosen = list(samples or published)
    return [Level(*one) for one in zip(clusters, chosen, strict=True)]


def cluster_points(
    points: np.ndarray,
    level: Level,
    number: int,
    iterations: int,
    rounds: int,
    seed: int,
    compare: Compare = numpy_compare,
) -> Clusters:
    """One level in this process.

    Args:
      points: [n, d] float32, rows or the centroids of the level below.
      level: how it is made; `clusters` is cut to n.
      number: of the level, 1 for the lowest.
      iterations: of Lloyd.
      rounds: of resampling.
      seed: of all draws.
      compare: makes the products in float32.
    """
    rng = random_state(seed, number, 0)
    found = kmeans(points, level.clusters, iterations, rng, compare)
    for turn in range(1, rounds + 1 if level.sample > 1 else 1):
        chosen = nearest_members(found, points, level.sample)
        found = resample(points[chosen], found, iterations, random_state(seed, number, turn))
        found = found._replace(assignment=nearest(points, centers_of(found.centroids), compare))
    return found


def resample(
    rows: np.ndarray, before: Clusters, iterations: int, rng: np.random.RandomState
) -> Clusters:
    """New clusters of the rows that were chosen, as many as before or as there are rows.

    Args:
      rows: [m, d] the nearest rows of each cluster.
      before: the clusters so far.
      iterations: of Lloyd.
      rng: of the seeds.
    """
    return kmeans(rows, len(before.centroids), iterations, rng)


def nearest_of_clusters(
    assignment: np.ndarray, distances: np.ndarray, k: int, count: int
) -> np.ndarray:
    """Sorted places: of every cluster the `count` nearest, or all that it has."""
    members = sorted_members(assignment, distances, k)
    return np.sort(np.concatenate([each[:count] for each in members]))


def entropy(counts: np.ndarray) -> float:
    """Of a distribution over clusters, in bits; log2 of their number if all are equally large."""
    shares = counts[counts > 0] / max(1, counts.sum())
    return float(-(shares * np.log2(shares)).sum()) + 0.0
