"""The work of `dino-jax curate cluster`: a tree of clusters over the rows of a pool.

levelL-centroids.npy     [K, d] float64
levelL-assignment.npy    level 1: [n] int32, in the order of rows.npy; above: of the level below
distances.npy            [n] float64, of the rows to their centroids of level 1
rows.npy                 [n] int64, numbers of the rows in the embedded folder
clusters.csv             level,cluster,parent,images,nearest image
sheet.png                the images nearest to the centers of the largest clusters
"""

import argparse
from typing import Any

import numpy as np

from dino_jax.curation.compute import open_compare
from dino_jax.curation.hierarchy import (
    Level,
    cluster_points,
    entropy,
    nearest_of_clusters,
    plan_levels,
    resample,
)
from dino_jax.curation.kmeans import Clusters, sorted_members
from dino_jax.curation.planted import absolute
from dino_jax.curation.pool import Pool
from dino_jax.curation.result import Names, as_csv, open_source
from dino_jax.curation.runner import Runner
from dino_jax.curation.shard_kmeans import (
    assign,
    iterate,
    newest_step,
    random_state,
    seed_centroids,
)
from dino_jax.curation.sheet import write_sheet
from dino_jax.curation.water_filling import grow
from dino_jax.curation.work import STEPS, Work

CLUSTER_COLUMNS = ("level", "cluster", "parent", "images", "nearest")


def work(arguments: argparse.Namespace, runner: Runner) -> str:
    """Makes the tree; returns what to print."""
    pool = Pool(absolute(arguments.embedded), absolute(arguments.of))
    levels = plan_levels(len(pool), arguments.clusters, arguments.samples)
    options = {
        "command": "cluster",
        "embedded": absolute(arguments.embedded),
        "of": absolute(arguments.of),
        "clusters": [level.clusters for level in levels],
        "samples": [level.sample for level in levels],
        "rounds": arguments.rounds,
        "iterations": arguments.iterations,
        "sheets": arguments.sheets,
        "seed": arguments.seed,
    }
    folder = Work(arguments.out, options, {"EMBEDDED": pool})
    if folder.is_done:
        folder.clean()
        return f"{arguments.out} is already complete"
    if levels[0].clusters > len(pool):
        print(f"{len(pool):,} images make at most as many clusters", flush=True)
    if runner.is_local:
        pool.hold()
    _first_level(pool, runner, folder, levels[0], arguments)
    for number, level in enumerate(levels[1:], start=2):
        _level_above(folder, level, number, arguments)
    return _finish(pool, folder, len(levels), arguments.sheets)


def _first_level(
    pool: Pool, runner: Runner, work: Work, level: Level, arguments: argparse.Namespace
) -> None:
    """Clusters the rows, shard by shard."""
    if work.has("level1-assignment.npy"):
        return
    name, compute = f"{STEPS}/round-0", arguments.compute
    k = min(level.clusters, len(pool))
    if newest_step(work, name, arguments.iterations) < 0:
        work.save(f"{name}-0000.npy", seed_centroids(pool, k, arguments.seed))
    last = iterate(pool, runner, work, name, arguments.iterations, compute)
    found = assign(pool, runner, work, last, f"{name}-assigned", compute)
    for turn in range(1, arguments.rounds + 1 if level.sample > 1 else 1):
        name = f"{STEPS}/round-{turn}"
        if not work.has(f"{name}.npy"):
            chosen = pool.rows[nearest_of_clusters(*found, k, level.sample)]
            rows = pool.gather(chosen)
            before = Clusters(work.load(last), found[0])
            rng = random_state(arguments.seed, 1, turn)
            work.save(f"{name}.npy", resample(rows, before, arguments.iterations, rng).centroids)
        last = f"{name}.npy"
        k = len(work.load(last))
        found = assign(pool, runner, work, last, f"{name}-assigned", compute)
        print(f"level 1: clustered again, round {turn} of {arguments.rounds}", flush=True)
    work.save("level1-centroids.npy", work.load(last))
    work.save("distances.npy", found[1])
    work.save("rows.npy", pool.rows)
    work.save("level1-assignment.npy", found[0])


def _level_above(work: Work, level: Level, number: int, arguments: argparse.Namespace) -> None:
    """Clusters the centroids of the level below, in this process."""
    if work.has(f"level{number}-assignment.npy"):
        return
    points = work.load(f"level{number - 1}-centroids.npy").astype(np.float32)
    found = cluster_points(
        points,
        level,
        number,
        arguments.iterations,
        arguments.rounds,
        arguments.seed,
        open_compare(arguments.compute),
    )
    work.save(f"level{number}-centroids.npy", found.centroids)
    work.save(f"level{number}-assignment.npy", found.assignment)
    print(f"level {number}: {len(found.centroids):,} clusters", flush=True)


def _finish(pool: Pool, work: Work, levels: int, sheets: int) -> str:
    """Writes the table, the sheet and the report."""
    assignments = [work.load(f"level{one}-assignment.npy") for one in range(1, levels + 1)]
    counts = [len(work.load(f"level{one}-centroids.npy")) for one in range(1, levels + 1)]
    tree = grow(assignments, counts)
    members = sorted_members(assignments[0], work.load("distances.npy"), counts[0])
    names = Names(pool)
    nearest = [names.name(int(pool.rows[each[0]])) if len(each) else "" for each in members]
    lines: list[tuple[Any, ...]] = []
    for level, sizes in enumerate(tree.sizes, start=1):
        parents = tree.parents[level - 1].tolist() if level < levels else [""] * len(sizes)
        shown = nearest if level == 1 else [""] * len(sizes)
        table = zip(range(len(sizes)), parents, sizes.tolist(), shown, strict=True)
        lines += [(level, *line) for line in table]
    work.write("clusters.csv", as_csv(CLUSTER_COLUMNS, lines))
    if sheets and (source := open_source(pool)) is not None:
        largest = np.argsort(-tree.sizes[0], kind="stable")[:sheets]
        groups = [
            (f"cluster {one}: {tree.sizes[0][one]:,} images", pool.rows[members[one]][:9])
            for one in largest.tolist()
        ]
        write_sheet(work, pool, source, groups)
    described = [
        {
            "clusters": len(sizes),
            "empty": int((sizes == 0).sum()),
            "largest": int(sizes.max()),
            "entropy_bits": entropy(sizes),
        }
        for sizes in tree.sizes
    ]
    work.finish({"images": len(pool), "levels": described})
    texts = [
        f"level {level}: {one['clusters']:,} clusters ({one['empty']} empty), the largest "
        f"{one['largest']:,} images, entropy {one['entropy_bits']:.2f} bits of "
        f"{np.log2(one['clusters']):.2f}"
        for level, one in enumerate(described, start=1)
    ]
    return "\n".join([f"{work.out}: {len(pool):,} images", *texts])
