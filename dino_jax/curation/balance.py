"""The work of `dino-jax curate balance`: at most so many images of each cluster.

MetaCLIP's idea (arXiv:2309.16671, section 3.2) with clusters in the place of words: of a
cluster with n images each is kept with the chance min(1, cap / n); here exactly `cap` are.
"""

import argparse

import numpy as np

from dino_jax.curation.planted import Planted, absolute, open_tree
from dino_jax.curation.runner import Runner
from dino_jax.curation.sample import take
from dino_jax.curation.water_filling import water_fill
from dino_jax.curation.work import Work


def work(arguments: argparse.Namespace, runner: Runner) -> str:
    """Takes the images; returns what to print. Sizes decide, so the runner has nothing to do."""
    planted = open_tree(absolute(arguments.tree))
    levels = len(planted.assignments)
    if arguments.level > levels:
        raise ValueError(f"--level={arguments.level}: {arguments.tree} has {levels} levels")
    options = {
        "command": "balance",
        "tree": absolute(arguments.tree),
        "cap": arguments.cap,
        "level": arguments.level,
        "strategy": arguments.strategy,
        "seed": arguments.seed,
    }
    folder = Work(arguments.out, options, {"TREE": planted.pool})
    if folder.is_done:
        return f"{arguments.out} is already complete"
    shares = cap_clusters(planted, arguments.cap, arguments.level, arguments.seed)
    return take(folder, planted, shares, arguments.strategy, arguments.seed, "above the cap")


def cap_clusters(planted: Planted, cap: int, level: int, seed: int) -> np.ndarray:
    """[K of level 1] images to keep, so that no cluster of a level has more than `cap`.

    Above level 1 the cap is shared evenly among the clusters of level 1 below.
    """
    sizes = planted.tree.sizes[0]
    top = np.arange(len(sizes))
    for parents in planted.tree.parents[: level - 1]:
        top = parents[top]
    shares = np.zeros(len(sizes), np.int64)
    for cluster in np.unique(top).tolist():
        below = np.flatnonzero(top == cluster)
        rng = np.random.default_rng((seed, level, cluster))
        shares[below] = water_fill(sizes[below], cap, rng)
    return shares
