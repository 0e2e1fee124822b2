"""Milliseconds of processor time per query of the exact search, beside faiss where it is installed.

  python -m tests.benchmarks.search [--rows=50000] [--dim=512] [--queries=60]
      [--kinds catalogue gauss] [--faiss Flat HNSW SQ8]

One thread, one query alone, k = 10, catalogue-like vectors and white noise. Recall is against
float64 over the float32 vectors. faiss-cpu is no dependency: `pip install faiss-cpu` into an
environment of its own.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np

from dino_jax.search.codes import encode, unit_rows
from dino_jax.search.engine import Part, search
from tests.search.vectors import catalogue, gauss

K = 10
KINDS = {"catalogue": catalogue, "gauss": gauss}
RECIPES = {"Flat": "Flat", "HNSW": "HNSW16,Flat", "SQ8": "SQ8"}
BLOCK = 65_536  # rows that are in float64 at once


def normalized(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def true_rows(rows: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """[M, K] by float64, block by block."""
    scores = np.empty((len(queries), len(rows)))
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK].astype(np.float64)
        scores[:, start : start + BLOCK] = queries.astype(np.float64) @ block.T
    return np.argsort(-scores, axis=1, kind="stable")[:, :K]


def report(name: str, find: Callable, queries: np.ndarray, truth: np.ndarray, build: float) -> None:
    find(queries[0])
    milliseconds, recalls = [], []
    for query, wanted in zip(queries, truth, strict=True):
        begin = time.process_time()
        found = find(query)
        milliseconds.append(1000 * (time.process_time() - begin))
        recalls.append(len(set(found) & set(wanted.tolist())) / K)
    print(
        f"  {name:30} build {build:6.1f} s   {np.median(milliseconds):7.2f} ms   "
        f"recall@10 {np.mean(recalls):.4f}",
        flush=True,
    )


def measure(kind: Callable, rows: int, dim: int, count: int, names: list[str]) -> None:
    vectors = normalized(kind(rows + count, dim, 0))
    stored, queries = vectors[:rows], vectors[rows:]
    truth = true_rows(stored, queries)
    begin = time.process_time()
    blocks = [unit_rows(stored[start : start + BLOCK]) for start in range(0, rows, BLOCK)]
    parts = [Part(block, encode(block)) for block in blocks]
    build = time.process_time() - begin
    report("ours, exact", lambda q: search(parts, q, K).rows.tolist(), queries, truth, build)
    mask = (np.random.default_rng(1).random(rows) < 0.01).astype(np.uint8)
    masks = [mask[start : start + BLOCK] for start in range(0, rows, BLOCK)]
    kept = np.flatnonzero(mask)
    of_kept = kept[true_rows(stored[kept], queries)]
    find = lambda q: search(parts, q, K, masks).rows.tolist()  # noqa: E731
    report("ours, a filter keeps 1 %", find, queries, of_kept, build)
    try:
        import faiss  # pyright: ignore[reportMissingImports]
    except ImportError:
        print("  faiss is not installed")
        return
    faiss.omp_set_num_threads(1)
    for name in names:
        index = faiss.index_factory(dim, RECIPES[name], faiss.METRIC_INNER_PRODUCT)
        if name == "HNSW":
            index.hnsw.efConstruction, index.hnsw.efSearch = 128, 64
        begin = time.process_time()
        index.train(stored[: min(rows, 20_000)])
        index.add(stored)
        build = time.process_time() - begin
        report(
            f"faiss {name}",
            lambda q, index=index: index.search(q[None], K)[1][0].tolist(),
            queries,
            truth,
            build,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=60)
    parser.add_argument("--faiss", nargs="*", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    given = parser.parse_args()
    for kind in (KINDS[name] for name in given.kinds):
        print(f"{kind.__name__}, {given.rows:,} x {given.dim}")
        measure(kind, given.rows, given.dim, given.queries, given.faiss)


if __name__ == "__main__":
    main()
