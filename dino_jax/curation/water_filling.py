"""Shares of a target as even as sizes allow, at one node and down a tree of clusters.

Section 3.3 of arXiv:2405.15613: every node shares its target among its children, so that small
clusters give all that they have and large ones the same number each.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

NEAREST, RANDOM = "nearest", "random"
STRATEGIES = (RANDOM, NEAREST)  # which images of a cluster of the lowest level are taken


def water_level(sizes: np.ndarray, target: int) -> int:
    """The largest whole c with sum(min(size, c)) <= target; the largest size if all fit.

    Args:
      sizes: [n] int64, not negative.
      target: at least 0.
    """
    if sizes.sum() <= target:
        return int(sizes.max(initial=0))
    ordered = np.sort(sizes)
    before = np.cumsum(ordered) - ordered
    left = len(ordered) - np.arange(len(ordered))
    levels = (target - before) // left  # if all smaller ones are taken whole
    return int(levels[np.argmax(ordered > levels)])


def water_fill(sizes: np.ndarray, target: int, rng: np.random.Generator) -> np.ndarray:
    """[n] int64 shares with the sum min(target, sum(sizes)).

    Args:
      sizes: [n] int64, the most that each can give.
      target: at least 0.
      rng: chooses who gives one more where the target is no multiple.
    """
    sizes = np.asarray(sizes, np.int64)
    level = water_level(sizes, target)
    shares = np.minimum(sizes, level)
    rest = min(target, int(sizes.sum())) - int(shares.sum())
    if rest:
        shares[rng.permutation(np.flatnonzero(sizes > level))[:rest]] += 1
    return shares


class Tree(NamedTuple):
    """Clusters of clusters.

    Attributes:
      parents: for each level above the first, [K of the level below] int, the cluster of each.
      sizes: for each level, [K] int64, images below each cluster.
    """

    parents: Sequence[np.ndarray]
    sizes: Sequence[np.ndarray]


def grow(assignments: Sequence[np.ndarray], counts: Sequence[int]) -> Tree:
    """The tree of the assignments of all levels.

    Args:
      assignments: of images to level 1, of level 1 to level 2, ...
      counts: number of clusters of each level; empty ones are allowed.
    """
    sizes = [np.bincount(assignments[0], minlength=counts[0]).astype(np.int64)]
    for parents, count in zip(assignments[1:], counts[1:], strict=True):
        above = np.zeros(count, np.int64)
        np.add.at(above, parents, sizes[-1])
        sizes.append(above)
    return Tree(list(assignments[1:]), sizes)


def share_out(tree: Tree, target: int, multiplier: int, seed: int) -> np.ndarray:
    """[K of level 1] int64, how many images each of the lowest clusters gives.

    Args:
      tree: of all levels.
      target: number of images.
      multiplier: how often an image may be taken at most.
      seed: with the level and the cluster it decides where remainders go.
    """
    top = len(tree.sizes)
    shares = water_fill(tree.sizes[-1] * multiplier, target, _rng(seed, top, 0))
    for level in range(top - 1, 0, -1):
        parents, sizes = tree.parents[level - 1], tree.sizes[level - 1]
        order = np.argsort(parents, kind="stable")
        ends = np.searchsorted(parents[order], np.arange(len(shares) + 1))
        below = np.zeros(len(sizes), np.int64)
        for cluster in np.flatnonzero(shares).tolist():
            children = order[ends[cluster] : ends[cluster + 1]]
            rng = _rng(seed, level, cluster + 1)
            below[children] = water_fill(sizes[children] * multiplier, int(shares[cluster]), rng)
        shares = below
    return shares


def draw_members(
    count: int, members: np.ndarray, strategy: str, seed: int, cluster: int
) -> np.ndarray:
    """`count` images of one cluster: whole copies first, the rest at random or the nearest.

    Args:
      count: may be larger than the cluster.
      members: images, the nearest to the centroid first.
      strategy: of `STRATEGIES`.
      seed: with the cluster it decides which are drawn.
      cluster: number of the cluster.
    """
    if not len(members):
        return members
    copies, rest = divmod(count, len(members))
    chosen: Callable[[], np.ndarray] = {
        NEAREST: lambda: members[:rest],
        RANDOM: lambda: _rng(seed, 0, cluster).permutation(np.sort(members))[:rest],
    }[strategy]
    return np.sort(np.concatenate([*[members] * copies, chosen()]))


def _rng(seed: int, level: int, cluster: int) -> np.random.Generator:
    return np.random.default_rng((seed, level, cluster))
