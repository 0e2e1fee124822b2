"""Milliseconds of processor time per query of the exact search, beside faiss where it is installed.

  python -m tests.benchmarks.search [--rows=50000] [--dim=512] [--queries=60]
      [--kinds catalogue gauss] [--faiss Flat HNSW SQ8] [--rounds=5]

One thread, one query alone, k = 10, the median of the queries in the best of several rounds, all
engines in each round, catalogue-like vectors and white noise. Recall is against
float64 over the float32 vectors. faiss-cpu is no dependency: `pip install faiss-cpu` into an
environment of its own.
"""

import argparse
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dino_jax.search.codes import encode, unit_rows
from dino_jax.search.engine import Part, search
from tests.search.vectors import catalogue, gauss

K = 10
KINDS = {"catalogue": catalogue, "gauss": gauss}
RECIPES = {"Flat": "Flat", "HNSW": "HNSW16,Flat", "SQ8": "SQ8"}
BLOCK = 65_536  # rows that are in float64 at once


def normalized(vectors: np.ndarray) -> np.ndarray:
    vectors /= np.sqrt(np.einsum("nd,nd->n", vectors, vectors))[:, None]  # no second copy
    return vectors


def true_rows(rows: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """[M, K] by float64, block by block."""
    scores = np.empty((len(queries), len(rows)))
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK].astype(np.float64)
        scores[:, start : start + BLOCK] = queries.astype(np.float64) @ block.T
    return np.argsort(-scores, axis=1, kind="stable")[:, :K]


class Engine(NamedTuple):
    """Something that finds.

    Attributes:
      name: of it.
      find: gives the numbers of K rows for a query.
      truth: [M, K] the true rows.
      build: processor seconds.
      memory: bytes by which the process grew.
      disk: bytes of its files.
    """

    name: str
    find: Callable[[np.ndarray], list[int]]
    truth: np.ndarray
    build: float
    memory: int
    disk: int


def resident() -> int:
    """Bytes of memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def ours(stored: np.ndarray, queries: np.ndarray, truth: np.ndarray) -> list[Engine]:
    """The exact search, alone and under a filter that keeps 1 %."""
    before, begin = resident(), time.process_time()
    starts = range(0, len(stored), BLOCK)
    blocks = [unit_rows(stored[start : start + BLOCK]) for start in starts]
    parts = [Part(block, encode(block)) for block in blocks]
    build, memory = time.process_time() - begin, resident() - before
    disk = sum(x.nbytes for part in parts for x in (part.vectors, *part.codes))
    mask = (np.random.default_rng(1).random(len(stored)) < 0.01).astype(np.uint8)
    masks = [mask[start : start + BLOCK] for start in starts]
    kept = np.flatnonzero(mask)
    of_kept = kept[true_rows(stored[kept], queries)]
    return [
        Engine(name, lambda q, m=m: search(parts, q, K, m).rows.tolist(), true, build, memory, disk)
        for name, m, true in (
            ("ours, exact", None, truth),
            ("ours, a filter keeps 1 %", masks, of_kept),
        )
    ]


def of_faiss(name: str, stored: np.ndarray, truth: np.ndarray) -> Engine:
    import faiss  # pyright: ignore[reportMissingImports]

    faiss.omp_set_num_threads(1)
    before, begin = resident(), time.process_time()
    index = faiss.index_factory(stored.shape[1], RECIPES[name], faiss.METRIC_INNER_PRODUCT)
    if name == "HNSW":
        index.hnsw.efConstruction, index.hnsw.efSearch = 128, 64
    index.train(stored[:20_000])
    index.add(stored)
    build, memory = time.process_time() - begin, resident() - before
    with tempfile.TemporaryDirectory() as folder:
        faiss.write_index(index, f"{folder}/index")
        disk = (Path(folder) / "index").stat().st_size
    find = lambda q: index.search(q[None], K)[1][0].tolist()  # noqa: E731
    return Engine(f"faiss {name}", find, truth, build, memory, disk)


def measure(kind: Callable, rows: int, dim: int, count: int, names: list[str], rounds: int) -> None:
    vectors = normalized(kind(rows + count, dim, 0))
    stored, queries = vectors[:rows], vectors[rows:]
    truth = true_rows(stored, queries)
    engines = ours(stored, queries, truth)
    if importlib.util.find_spec("faiss") is None:
        print("  faiss is not installed")
    else:
        engines += [of_faiss(name, stored, truth) for name in names]
    best, recalls = [float("inf")] * len(engines), [0.0] * len(engines)
    for _ in range(rounds):  # all of them in each, so that a busy machine is the same for all
        for place, engine in enumerate(engines):
            engine.find(queries[0])
            times, found = [], []
            for query in queries:
                begin = time.process_time()
                found.append(engine.find(query))
                times.append(1000 * (time.process_time() - begin))
            best[place] = min(best[place], float(np.median(times)))
            pairs = zip(found, engine.truth, strict=True)
            recalls[place] = float(np.mean([len({*a} & {*b.tolist()}) / K for a, b in pairs]))
    for engine, milliseconds, recall in zip(engines, best, recalls, strict=True):
        print(
            f"  {engine.name:26} build {engine.build:6.1f} s   {milliseconds:7.2f} ms   "
            f"recall@{K} {recall:.4f}   memory {engine.memory / 1e6:6.0f} MB   "
            f"files {engine.disk / 1e6:6.0f} MB",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--faiss", nargs="*", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    given = parser.parse_args()
    for kind in (KINDS[name] for name in given.kinds):
        print(f"{kind.__name__}, {given.rows:,} x {given.dim}")
        measure(kind, given.rows, given.dim, given.queries, given.faiss, given.rounds)


if __name__ == "__main__":
    main()
