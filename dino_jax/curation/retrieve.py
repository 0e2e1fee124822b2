"""The work of `dino-jax curate retrieve`: images of a pool that are like given ones.

DINOv2 (arXiv:2304.07193, appendix A.4) takes the nearest images of each seed where there are many
seeds, and images of the clusters that hold more than three where there are few.
"""

import argparse

import numpy as np

from dino_jax.curation.cells import ExactTask, load_edges
from dino_jax.curation.nearest import centers_of, nearest
from dino_jax.curation.planted import absolute, open_tree
from dino_jax.curation.pool import Pool
from dino_jax.curation.result import (
    Names,
    Removed,
    as_csv,
    open_source,
    write_kept,
    write_removed,
)
from dino_jax.curation.runner import Runner
from dino_jax.curation.sample import take
from dino_jax.curation.shard_kmeans import shard_file
from dino_jax.curation.water_filling import RANDOM, water_fill
from dino_jax.curation.work import STEPS, Work

RETRIEVED = ("name", "seed", "similarity")
PLACES = ("embedded", "of", "seeds", "tree")
NUMBERS = ("nearest", "above", "per_cluster", "most")
ANY = -2.0  # below every cosine


def work(arguments: argparse.Namespace, runner: Runner) -> str:
    """Finds and writes; returns what to print."""
    pool = Pool(absolute(arguments.embedded), absolute(arguments.of))
    seeds = Pool(absolute(arguments.seeds), "", "--seeds")
    options = {
        "command": "retrieve",
        **{
            name: absolute(getattr(arguments, name)) for name in ("embedded", "of", "seeds", "tree")
        },
        **{name: getattr(arguments, name) for name in ("nearest", "above", "per_cluster", "most")},
        "seed": arguments.seed,
    }
    folder = Work(arguments.out, options, {"EMBEDDED": pool, "--seeds": seeds})
    if folder.is_done:
        folder.clean()
        return f"{arguments.out} is already complete"
    if arguments.tree:
        return _by_cluster(pool, seeds, folder, arguments)
    return _by_seed(pool, seeds, runner, folder, arguments.nearest)


def _by_seed(pool: Pool, seeds: Pool, runner: Runner, work: Work, count: int) -> str:
    """The `count` nearest images of each seed."""
    name, out = f"{STEPS}/seeds", f"{STEPS}/nearest"
    if not work.has(f"{name}.npy"):
        work.save(f"{name}-rows.npy", seeds.gather(seeds.rows))
        work.save(f"{name}.npy", seeds.rows + pool.total)
    missing = [one for one in pool.parts if not work.has(shard_file(out, one))]
    runner.each("nearest", ExactTask(pool, work.path(name), count, ANY, work.path(out)), missing)
    found = load_edges([work.path(shard_file(out, one)) for one in pool.parts], count)
    ours, theirs = Names(pool), Names(seeds)
    lines = (
        (ours.name(row), theirs.name(seed - pool.total), f"{cosine:.6f}")
        for seed, row, cosine in zip(*(one.tolist() for one in found), strict=True)
    )
    work.write("retrieved.csv", as_csv(RETRIEVED, lines))
    kept = np.unique(found.others)
    said = write_kept(work, pool, kept, np.ones(len(kept), np.int64), open_source(pool))
    gone = np.setdiff1d(pool.rows, kept)
    write_removed(work, pool, (Removed(int(row), "not near a seed") for row in gone))
    report = {
        "images": len(pool),
        "seeds": len(seeds),
        "kept": len(kept),
        "least_cosine": float(found.cosines.min()),
        "notes": said,
    }
    work.finish(report)
    return (
        f"{work.out}: kept {len(kept):,} of {len(pool):,} images, the {count} nearest of each of "
        f"{len(seeds):,} seeds; smallest cosine {report['least_cosine']:.4f}"
    )


def _by_cluster(pool: Pool, seeds: Pool, work: Work, arguments: argparse.Namespace) -> str:
    """Images of the clusters that hold enough seeds."""
    planted = open_tree(absolute(arguments.tree), "--tree")
    if (planted.pool.place, planted.pool.digest) != (pool.place, pool.digest):
        raise ValueError(
            f"--tree={arguments.tree} was made of {planted.pool.place}; retrieve from the same "
            "EMBEDDED, with the same --of"
        )
    places = nearest(seeds.gather(seeds.rows), centers_of(planted.centroids))
    held = np.bincount(places, minlength=len(planted.centroids))
    sizes = np.where(held > arguments.above, planted.tree.sizes[0], 0)
    shares = np.minimum(sizes, arguments.per_cluster)
    shares = water_fill(shares, arguments.most, np.random.default_rng((arguments.seed, 0)))
    if not shares.sum():
        raise ValueError(
            f"no cluster holds more than --above={arguments.above:g} of the {len(seeds):,} seeds "
            f"(the most is {held.max()}); lower --above, make fewer clusters, or leave --tree out"
        )
    filled = int((held > arguments.above).sum())
    text = take(work, planted, shares, RANDOM, arguments.seed, "beyond what is taken")
    return f"{text}\n{filled:,} of {len(held):,} clusters hold more than {arguments.above:g} seeds"
