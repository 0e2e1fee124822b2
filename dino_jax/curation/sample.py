"""The work of `dino-jax curate sample`: images evenly from a tree of clusters."""

import argparse

import numpy as np

from dino_jax.curation.hierarchy import entropy
from dino_jax.curation.planted import Planted, absolute, open_tree
from dino_jax.curation.result import Removed, open_source, write_kept, write_removed
from dino_jax.curation.runner import Runner
from dino_jax.curation.water_filling import draw_members, share_out
from dino_jax.curation.work import Work


def work(arguments: argparse.Namespace, runner: Runner) -> str:
    """Takes the images; returns what to print. Sizes decide, so the runner has nothing to do."""
    planted = open_tree(absolute(arguments.tree))
    options = {
        "command": "sample",
        "tree": absolute(arguments.tree),
        "target": arguments.target,
        "strategy": arguments.strategy,
        "multiplier": arguments.multiplier,
        "seed": arguments.seed,
    }
    folder = Work(arguments.out, options, {"TREE": planted.pool})
    if folder.is_done:
        return f"{arguments.out} is already complete"
    shares = share_out(planted.tree, arguments.target, arguments.multiplier, arguments.seed)
    return take(folder, planted, shares, arguments.strategy, arguments.seed, "over its share")


def take(
    work: Work, planted: Planted, shares: np.ndarray, strategy: str, seed: int, reason: str
) -> str:
    """Takes `shares` [K] images of the clusters of level 1, and writes the result.

    Returns:
      What to print.
    """
    drawn = [
        draw_members(int(share), members, strategy, seed, cluster)
        for cluster, (share, members) in enumerate(zip(shares, planted.members, strict=True))
    ]
    times = np.bincount(np.concatenate(drawn), minlength=len(planted.rows))
    clusters = planted.assignments[0]
    removed = (
        Removed(int(planted.rows[place]), f"{reason} of cluster {clusters[place]}")
        for place in np.flatnonzero(times == 0)
    )
    kept = np.flatnonzero(times)
    source = open_source(planted.pool)
    said = write_kept(work, planted.pool, planted.rows[kept], times[kept], source)
    write_removed(work, planted.pool, removed)
    levels = [
        {
            "entropy_bits_before": entropy(np.bincount(planted.cluster_at(level))),
            "entropy_bits_after": entropy(np.bincount(planted.cluster_at(level), weights=times)),
            "most_possible": float(np.log2(len(planted.tree.sizes[level - 1]))),
        }
        for level in range(1, len(planted.assignments) + 1)
    ]
    report = {
        "images": len(planted.rows),
        "kept": len(kept),
        "taken": int(times.sum()),
        "levels": levels,
        "notes": said,
    }
    work.finish(report)
    lines = [
        f"level {level}: entropy {one['entropy_bits_before']:.2f} -> "
        f"{one['entropy_bits_after']:.2f} bits of {one['most_possible']:.2f}"
        for level, one in enumerate(levels, start=1)
    ]
    again = f", taken {times.sum():,} times" if times.sum() != len(kept) else ""
    head = f"{work.out}: kept {len(kept):,} of {len(planted.rows):,} images{again}"
    return "\n".join([head, *lines])
