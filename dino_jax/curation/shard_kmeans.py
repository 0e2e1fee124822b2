"""k-means over the shards of a pool: seeds on a sample, then one pass over the shards a step."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dino_jax.curation.bounds import Bounds, Motion, motion_of
from dino_jax.curation.compute import open_compare
from dino_jax.curation.kmeans import choose_seeds, draw, means_of, sums_of
from dino_jax.curation.nearest import centers_of, nearest, squared_distances
from dino_jax.curation.pool import Pool, load_array
from dino_jax.curation.runner import Runner, Summand
from dino_jax.curation.work import Work, save_array

BLOCK = 1000  # centroids whose sums travel together
SEED_ROWS = 20_000  # of the sample for k-means++, or
SEEDS_PER_CLUSTER = 10  # so many for each cluster


@dataclass
class SumsTask:
    """Sums and numbers of the rows of each cluster, for the shards' part of an iteration.

    Attributes:
      pool: the rows.
      centroids: file with [K, d] float64.
      compute: of `open_compare`.
      before: file of the iteration before; with it, and `memory`, only changes are given.
      memory: bounds by shard, where one process does all iterations; never travels.
    """

    pool: Pool
    centroids: str
    compute: str
    before: str = ""
    memory: dict[int, Bounds] | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "memory": None}

    @functools.cached_property
    def _motion(self) -> Motion:
        """Made once for all shards."""
        return motion_of(load_array(self.before), load_array(self.centroids))

    def __call__(self, shard: int) -> Iterator[Summand]:
        """Blocks of [b, d + 1] float64: sums, and the number in the last column."""
        rows = self.pool.part(shard).vectors
        centroids = load_array(self.centroids)
        centers, compare = centers_of(centroids), open_compare(self.compute)
        if self.memory is None:
            yield from _blocks(*sums_of(rows, nearest(rows, centers, compare), len(centroids)))
            return
        known = self.memory.get(shard)
        if known is None:
            known = self.memory[shard] = Bounds(rows, centers, compare)
            yield from _blocks(*sums_of(rows, known.assignment, len(centroids)))
            return
        was = known.assignment
        changed = known.move(rows, centers, self._motion, compare)
        gained = sums_of(rows[changed], known.assignment[changed], len(centroids))
        lost = sums_of(rows[changed], was[changed], len(centroids))
        yield from _blocks(gained[0] - lost[0], gained[1] - lost[1])


def _blocks(sums: np.ndarray, counts: np.ndarray) -> Iterator[Summand]:
    whole = np.concatenate([sums, counts[:, None].astype(np.float64)], axis=1)
    for block in range(-(-len(whole) // BLOCK)):
        yield block, whole[block * BLOCK : (block + 1) * BLOCK]


@dataclass
class AssignTask:
    """Writes the cluster of each row of a shard, and its distance.

    Attributes:
      pool: the rows.
      centroids: file with [K, d] float64.
      compute: of `open_compare`.
      out: files are `out`-SHARD.npy, [m, 2] float64: cluster and distance to its centroid.
    """

    pool: Pool
    centroids: str
    compute: str
    out: str

    def __call__(self, shard: int) -> None:
        rows = self.pool.part(shard).vectors
        centers = centers_of(load_array(self.centroids))
        found = nearest(rows, centers, open_compare(self.compute))
        squared = np.maximum(squared_distances(rows, centers, found), 0)
        save_array(shard_file(self.out, shard), np.stack([found, np.sqrt(squared)], axis=1))


def shard_file(name: str, shard: int) -> str:
    """The file of a shard."""
    return f"{name}-{shard:05d}.npy"


def sample_rows(pool: Pool, count: int) -> np.ndarray:
    """Numbers of at most `count` rows, evenly spaced."""
    rows = pool.rows
    count = min(count, len(rows))
    return rows[np.arange(count) * len(rows) // count]


def seed_centroids(pool: Pool, k: int, seed: int) -> np.ndarray:
    """[k, d] float64, rows that k-means++ chooses from a sample.

    Args:
      pool: at least k rows.
      k: number of clusters.
      seed: of the draws.
    """
    numbers = sample_rows(pool, max(SEED_ROWS, SEEDS_PER_CLUSTER * k))
    rows = pool.gather(numbers).astype(np.float32)
    draws = draw(random_state(seed, 1, 0), len(rows), k)
    return rows[choose_seeds(rows, k, draws)].astype(np.float64)


def random_state(seed: int, level: int, turn: int) -> np.random.RandomState:
    """Draws of one k-means, the same ones wherever a command goes on."""
    return np.random.RandomState(np.random.SeedSequence((seed, level, turn)).generate_state(4))


def iterate(
    pool: Pool, runner: Runner, work: Work, name: str, iterations: int, compute: str
) -> str:
    """Lloyd's iterations from the newest file `name`-STEP.npy on; the last two of them stay.

    Args:
      pool: the rows.
      runner: does the passes.
      work: the folder.
      name: of the files with the centroids of each iteration, inside of the folder.
      iterations: at most; an iteration that moves nothing is the last.
      compute: of `open_compare`.

    Returns:
      The file with the last centroids, inside of the folder.
    """
    done = newest_step(work, name, iterations)
    memory: dict[int, Bounds] | None = {} if runner.is_local else None
    totals: dict[int, np.ndarray] = {}
    before = ""
    for step in range(done, iterations):
        path = work.path(f"{name}-{step:04d}.npy")
        task = SumsTask(pool, path, compute, before, memory)
        found = runner.total(f"k-means {step + 1}", task, pool.parts)
        for block, sums in found.items():
            totals[block] = totals[block] + sums if before and memory is not None else sums
        whole = np.concatenate([totals[block] for block in sorted(totals)])
        old = load_array(path)
        new = means_of(whole[:, :-1], whole[:, -1].astype(np.int64), old)
        if np.array_equal(new, old):
            print(f"k-means: nothing moves after {step} iterations", flush=True)
            return f"{name}-{step:04d}.npy"
        work.save(f"{name}-{step + 1:04d}.npy", new)
        work.remove(f"{name}-{step - 1:04d}.npy")
        before = path
        changed = np.sqrt(np.square(new - old).sum(axis=1)).mean()
        print(f"k-means: iteration {step + 1} of {iterations}, mean move {changed:.3g}", flush=True)
    return f"{name}-{iterations:04d}.npy"


def newest_step(work: Work, name: str, iterations: int) -> int:
    """The last iteration whose centroids are there; -1 without any."""
    steps = range(iterations, -1, -1)
    return next((step for step in steps if work.has(f"{name}-{step:04d}.npy")), -1)


def assign(
    pool: Pool, runner: Runner, work: Work, centroids: str, out: str, compute: str
) -> tuple[np.ndarray, np.ndarray]:
    """The cluster of every row and its distance; shards that are done already are read.

    Args:
      pool: the rows.
      runner: does the shards.
      work: the folder.
      centroids: file inside of it.
      out: name of the files of the shards inside of it.
      compute: of `open_compare`.

    Returns:
      [n] int32 and [n] float64, in the order of `pool.rows`.
    """
    missing = [shard for shard in pool.parts if not work.has(shard_file(out, shard))]
    task = AssignTask(pool, work.path(centroids), compute, work.path(out))
    runner.each("assign", task, missing)
    found = np.concatenate([work.load(shard_file(out, shard)) for shard in pool.parts])
    return found[:, 0].astype(np.int32), found[:, 1]
