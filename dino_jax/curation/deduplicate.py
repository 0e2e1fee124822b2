"""The work of `dino-jax curate deduplicate`: one image of each group of near-copies is kept."""

import argparse
from typing import Any, NamedTuple

import numpy as np

from dino_jax.curation.cells import (
    CellsTask,
    EmitCells,
    ExactTask,
    LikeTask,
    SemdedupCell,
    WithinCell,
    choose_probes,
    count_cells,
    find_cells,
    found_share,
    load_edges,
    shared_cells,
)
from dino_jax.curation.groups import DIGITS, NO_EDGES, Edges, components, star_groups
from dino_jax.curation.planted import absolute
from dino_jax.curation.pool import Pool
from dino_jax.curation.result import Names, Removed, open_source, write_kept, write_removed
from dino_jax.curation.runner import Grouped, Runner
from dino_jax.curation.shard_kmeans import sample_rows, shard_file
from dino_jax.curation.work import STEPS, Work
from dino_jax.search.codes import lengths_of

PASS_BYTES = 1 << 30  # of rows that one process holds besides the pool
SEMDEDUP = "semdedup"
NEAR_COPY, LIKE, GROUP = "near-copy", "like an evaluation image", "in a group of such an image"


class Found(NamedTuple):
    """What the search has found.

    Attributes:
      edges: between near-copies; of SemDeDup, from each row that goes to its partner.
      recall: share of the near-copies of the sample that were found.
      pairs: near-copies of the sample.
      cells: number of cells.
      probes: cells of a row.
    """

    edges: Edges
    recall: float
    pairs: int
    cells: int
    probes: int


def work(arguments: argparse.Namespace, runner: Runner) -> str:
    """Finds and writes; returns what to print."""
    pool = Pool(absolute(arguments.embedded), absolute(arguments.of))
    against = Pool(absolute(arguments.against), "", "--against") if arguments.against else None
    names = ("threshold", "neighbours", "groups", "epsilon", "cells", "probes", "recall")
    names = (*names, "recall_sample", "against_threshold", "seed")
    options = {
        "command": "deduplicate",
        "embedded": absolute(arguments.embedded),
        "of": absolute(arguments.of),
        "against": absolute(arguments.against),
        **{name: getattr(arguments, name) for name in names},
    }
    pools = {"EMBEDDED": pool} | ({"--against": against} if against else {})
    folder = Work(arguments.out, options, pools)
    if folder.is_done:
        folder.clean()
        return f"{arguments.out} is already complete"
    if runner.is_local:
        pool.hold()
    found = search(pool, runner, folder, arguments)
    like = NO_EDGES if against is None else _find_like(pool, against, runner, folder, arguments)
    return _finish(pool, against, folder, found, like, arguments)


def search(pool: Pool, runner: Runner, work: Work, arguments: argparse.Namespace) -> Found:
    """Finds near-copies in cells, and how many of those of a sample it has found."""
    by_rule = arguments.groups == SEMDEDUP
    threshold = 1 - arguments.epsilon if by_rule else arguments.threshold
    true = _search_exactly(pool, runner, work, threshold, arguments)
    count = min(arguments.cells or count_cells(len(pool)), len(pool))
    if not work.has(f"{STEPS}/centers.npy"):
        work.save(f"{STEPS}/centers.npy", find_cells(pool, count, arguments.seed))
    centers = work.load(f"{STEPS}/centers.npy")
    probes = min(arguments.probes or 1, len(centers))
    if not arguments.probes and not by_rule:
        probes = choose_probes(pool, true, centers, arguments.recall)
    task = CellsTask(pool, work.path(f"{STEPS}/centers.npy"), probes, work.path(f"{STEPS}/cells"))
    missing = [one for one in pool.parts if not work.has(shard_file(f"{STEPS}/cells", one))]
    runner.each("cells", task, missing)
    out = work.path(f"{STEPS}/edges")
    reduce: Any = WithinCell(arguments.neighbours, threshold, out)
    if by_rule:
        reduce = SemdedupCell(work.path(f"{STEPS}/centers.npy"), arguments.epsilon, out)
    if not work.has(f"{STEPS}/compared.npy"):
        size = len(pool) * probes * centers.shape[1] * 2
        emit = EmitCells(pool, work.path(f"{STEPS}/cells"))
        passes = -(-size // PASS_BYTES)
        runner.grouped("compare", Grouped(emit, reduce, len(centers), passes), pool.parts)
        work.save(f"{STEPS}/compared.npy", np.zeros(0))
    paths = [shard_file(out, cell) for cell in range(len(centers))]
    edges = load_edges(paths, arguments.neighbours)
    recall = shared_cells(pool, true, centers, probes) if by_rule else found_share(true, edges)
    return Found(edges, recall, len(true.rows), len(centers), probes)


def _search_exactly(
    pool: Pool, runner: Runner, work: Work, threshold: float, arguments: argparse.Namespace
) -> Edges:
    """Near-copies of a sample among all rows."""
    numbers = sample_rows(pool, arguments.recall_sample)
    name, out = f"{STEPS}/sample", f"{STEPS}/exact"
    _save_rows(work, name, numbers, pool.gather(numbers))
    task = ExactTask(pool, work.path(name), arguments.neighbours, threshold, work.path(out))
    missing = [one for one in pool.parts if not work.has(shard_file(out, one))]
    runner.each("sample", task, missing)
    paths = [work.path(shard_file(out, one)) for one in pool.parts]
    return load_edges(paths, arguments.neighbours)


def _find_like(
    pool: Pool, against: Pool, runner: Runner, work: Work, arguments: argparse.Namespace
) -> Edges:
    """From rows to the evaluation image they are most like, whose number is that + `pool.total`."""
    name, out = f"{STEPS}/against", f"{STEPS}/like"
    _save_rows(work, name, against.rows + pool.total, against.gather(against.rows))
    task = LikeTask(pool, work.path(name), arguments.against_threshold, work.path(out))
    missing = [one for one in pool.parts if not work.has(shard_file(out, one))]
    runner.each("evaluation", task, missing)
    return load_edges([work.path(shard_file(out, one)) for one in pool.parts], 1)


def _save_rows(work: Work, name: str, numbers: np.ndarray, rows: np.ndarray) -> None:
    if not work.has(f"{name}.npy"):
        work.save(f"{name}-rows.npy", rows)
        work.save(f"{name}.npy", numbers)


def decide(
    rows: np.ndarray, found: Edges, like: Edges, groups: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is kept.

    Args:
      rows: [n] numbers, ascending.
      found: near-copies among them.
      like: from rows to evaluation images.
      groups: of `options.GROUPS`.

    Returns:
      [n] place of the row that is kept for each one, itself where it is kept, or -1 where it is
      like an evaluation image; [n] bool, those; and [n] bool, those of their groups besides.
    """
    n = len(rows)
    places = Edges(np.searchsorted(rows, found.rows), np.searchsorted(rows, found.others), found[2])
    bad = np.isin(rows, like.rows)
    if groups == "components":
        group = components(places, n)
        whole = np.isin(group, group[bad])
        return np.where(whole, -1, group), bad, whole & ~bad
    if groups == SEMDEDUP:
        kept = np.arange(n)
        kept[places.rows] = places.others
        return np.where(bad, -1, kept), bad, np.zeros(n, bool)
    alive = ~(bad[places.rows] | bad[places.others])
    kept = star_groups(Edges(*(column[alive] for column in places)), n)
    return np.where(bad, -1, kept), bad, np.zeros(n, bool)


def _finish(
    pool: Pool,
    against: Pool | None,
    work: Work,
    found: Found,
    like: Edges,
    arguments: argparse.Namespace,
) -> str:
    rows = pool.rows
    partner, bad, besides = decide(rows, found.edges, like, arguments.groups)
    copies = np.flatnonzero((partner >= 0) & (partner != np.arange(len(rows))))
    cosines = _cosines(pool, rows[copies], rows[partner[copies]])
    names, removed = Names(pool), []
    for place, cosine in zip(copies.tolist(), cosines.tolist(), strict=True):
        kept = names.name(int(rows[partner[place]]))
        removed.append(Removed(int(rows[place]), NEAR_COPY, kept, f"{cosine:.6f}"))
    if against is not None:
        theirs = Names(against)
        for row, other, cosine in zip(*(one.tolist() for one in like), strict=True):
            removed.append(Removed(row, LIKE, theirs.name(other - pool.total), f"{cosine:.6f}"))
    removed += [Removed(int(rows[place]), GROUP) for place in np.flatnonzero(besides)]
    kept = np.flatnonzero(partner == np.arange(len(rows)))
    said = write_kept(work, pool, rows[kept], np.ones(len(kept), np.int64), open_source(pool))
    write_removed(work, pool, removed)
    report = {
        "images": len(rows),
        "kept": len(kept),
        "near_copies": len(copies),
        "like_evaluation": int(bad.sum()),
        "in_groups_of_such": int(besides.sum()),
        "least_cosine_to_kept": float(cosines.min()) if len(cosines) else None,
        "recall": found.recall,
        "recall_pairs": found.pairs,
        "cells": found.cells,
        "probes": found.probes,
        "notes": said,
    }
    work.finish(report)
    return describe(work.out, report, arguments.recall)


def _cosines(pool: Pool, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """[m] float64 cosines of pairs of rows."""
    involved, places = np.unique(np.concatenate([left, right]), return_inverse=True)
    rows = pool.gather(involved)
    lengths = lengths_of(rows)
    found = np.empty(len(left))
    ones, others = np.split(places, 2)
    for start in range(0, len(left), 4096):
        one, other = ones[start : start + 4096], others[start : start + 4096]
        products = rows[one].astype(np.float64) * rows[other].astype(np.float64)
        found[start : start + 4096] = products.sum(axis=1) / (lengths[one] * lengths[other])
    return np.round(found, DIGITS)


def describe(out: str, report: dict[str, Any], wanted: float) -> str:
    """Lines for the console; one more where the recall is not the one that was asked for."""
    lines = [
        f"{out}: kept {report['kept']:,} of {report['images']:,} images; removed "
        f"{report['near_copies']:,} near-copies"
    ]
    if report["like_evaluation"]:
        lines[0] += (
            f", {report['like_evaluation']:,} like evaluation images and "
            f"{report['in_groups_of_such']:,} of their groups"
        )
    if report["least_cosine_to_kept"] is not None:
        lines.append(
            f"smallest cosine of a removed image to the one that is kept for it: "
            f"{report['least_cosine_to_kept']:.4f}"
        )
    lines.append(
        f"recall: {report['recall']:.4f} of {report['recall_pairs']:,} near-copies of a sample "
        f"that was searched exactly ({report['cells']:,} cells, {report['probes']} of each image)"
    )
    if report["recall"] < wanted:
        lines.append(
            f"the recall is below --recall={wanted:g}: near-copies are left; use another --out "
            "with more --probes or fewer --cells"
        )
    return "\n".join(lines)
