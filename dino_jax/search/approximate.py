"""The work of `dino-jax search approximate`: lists of faiss, and how much they lose."""

import argparse
from pathlib import Path

import numpy as np

from dino_jax.commands.command_line import run_command
from dino_jax.search import lists as of_faiss
from dino_jax.search.index import Index
from dino_jax.search.lists import FIRST, MEASURED
from dino_jax.search.writer import Writer, writing


def make(writer: Writer, lists: int | None, least: float) -> str:
    """Makes lists, looks into more and more of them until the recall is enough, and commits.

    Args:
      writer: of the index.
      lists: number of lists, None for the usual one.
      least: recall that is wanted, at most 1.

    Returns:
      One line about them.
    """
    index = Index(writer.folder, writer.manifest)
    if not len(index):
        raise ValueError(f"{writer.folder} has no photos")
    lists = lists or of_faiss.usual_lists(len(index))
    made = of_faiss.make_lists(index.vectors, index.live, lists)
    kept = np.flatnonzero(index.live)
    rows = np.sort(np.random.default_rng(1).permutation(kept)[:MEASURED])
    exact, masks = [], []
    for row in rows:
        mask = index.live.copy()
        mask[row] = 0
        masks.append(mask)
        exact.append(index.search(index.vector(row), FIRST, mask).rows)
    recall = 0.0
    while True:
        found = [
            index.search_lists(made, len(index.live), index.vector(row), FIRST, mask).rows
            for row, mask in zip(rows, masks, strict=True)
        ]
        recall = of_faiss.share_found(exact, found)
        if recall >= least or made.probes >= lists:
            break
        made.probes *= 2
    writer.set_approximation(made, lists, recall, len(rows))
    writer.commit()
    return (
        f"{writer.folder}: {lists:,} lists, {min(made.probes, lists):,} of them searched: "
        f"recall@{FIRST} {recall:.4f} on {len(rows)} of its photos; only queries with "
        "--approximate use them"
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""

    def work() -> str:
        of_faiss.import_faiss()
        with writing(Path(arguments.index).expanduser()) as writer:
            return make(writer, arguments.lists, arguments.recall)

    return run_command(work)
