"""The options of `dino-jax curate`, subcommand by subcommand, without what the work imports."""

import argparse
from collections.abc import Callable
from typing import NamedTuple

from dino_jax.commands.arguments import COUNT, NOT_NEGATIVE, SEED, STEP, filled, real, whole
from dino_jax.config.range import MAX_PIXELS

COSINE = real(above=0, at_most=1)
GROUPS = ("components", "stars", "semdedup")
STRATEGIES = ("random", "nearest")
COMPUTES = ("numpy", "jax")


class Subcommand(NamedTuple):
    """One of the things that `dino-jax curate` does.

    Attributes:
      module: has `work(arguments, runner)`, which returns what to print.
      help: first line of its help.
      add: adds its options.
    """

    module: str
    help: str
    add: Callable[[argparse.ArgumentParser], None]


def _add_common(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", type=filled, required=True, help="new folder for the result")
    add("--seed", type=SEED, default=0, help="of everything that is drawn")
    add(
        "--beam",
        action="store_true",
        help="work in Apache Beam; other options, such as --runner, are passed to it",
    )


def _add_pool(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("embedded", type=filled, help="folder of dino-jax embed")
    add("--of", default="", help="result of an earlier step: only the images it has kept")
    add("--compute", choices=COMPUTES, default="numpy", help="numpy, or jax on all devices")


def _add_tree(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tree", type=filled, help="folder of dino-jax curate cluster")


def _add_sheet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sheets", type=STEP, default=9, help="clusters on sheet.png, or 0")


def add_deduplicate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _add_pool(parser)
    add("--threshold", type=COSINE, default=0.6, help="images above this cosine are near-copies")
    add("--neighbours", type=COUNT, default=64, help="near-copies of an image that are looked at")
    add("--groups", choices=GROUPS, default="components", help="of which one image is kept")
    add("--epsilon", type=COSINE, default=0.05, help="of semdedup: 1 - cosine of near-copies")
    add("--cells", type=COUNT, help="parts that are searched; default: the root of the images")
    add("--probes", type=COUNT, help="cells of an image; default: as many as --recall needs")
    add("--recall", type=COSINE, default=0.99, help="share of near-copies that must be found")
    add("--recall-sample", type=COUNT, default=1000, help="images that are searched exactly")
    add("--against", default="", help="embedded evaluation images: nothing like them is kept")
    add("--against-threshold", type=COSINE, default=0.45, help="cosine above which it is like them")
    _add_common(parser)


def add_cluster(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _add_pool(parser)
    add(
        "--clusters",
        type=COUNT,
        nargs="+",
        default=[],
        help="of each level, the lowest first; default: the published ones, scaled to the images",
    )
    add(
        "--samples",
        type=COUNT,
        nargs="+",
        default=[],
        help="images of each cluster that are clustered again, by level; default: 1 10 5 3",
    )
    add("--rounds", type=COUNT, default=10, help="of clustering again")
    add("--iterations", type=COUNT, default=50, help="of k-means")
    _add_sheet(parser)
    _add_common(parser)


def add_sample(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _add_tree(parser)
    add("--target", type=COUNT, required=True, help="images to take")
    add("--strategy", choices=STRATEGIES, default="random", help="which of a cluster: any, nearest")
    add("--multiplier", type=COUNT, default=1, help="how often an image may be taken")
    _add_common(parser)


def add_balance(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _add_tree(parser)
    add("--cap", type=COUNT, required=True, help="images of a cluster that are kept at most")
    add("--level", type=COUNT, default=1, help="of the clusters")
    add("--strategy", choices=STRATEGIES, default="random", help="which of a cluster: any, nearest")
    _add_common(parser)


def add_retrieve(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _add_pool(parser)
    add("--seeds", type=filled, required=True, help="embedded folder of the images to look like")
    add("--nearest", type=whole(1, 1000), default=4, help="images for each seed")
    add("--tree", default="", help="folder of curate cluster: take from clusters that hold seeds")
    add("--above", type=NOT_NEGATIVE, default=3, help="seeds, or 0: a cluster must have more")
    add("--per-cluster", type=COUNT, default=10_000, help="images of a cluster at most")
    add("--most", type=COUNT, default=1_000_000, help="images in all at most (--tree)")
    _add_common(parser)


def add_filter(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _add_pool(parser)
    add("--min-side", type=STEP, default=32, help="pixels of the short side, or 0")
    add("--min-entropy", type=NOT_NEGATIVE, default=1.0, help="bits of the gray levels, or 0")
    add("--min-detail", type=NOT_NEGATIVE, default=3.0, help="deviation of the Laplacian, or 0")
    add("--max-pixels", type=COUNT, default=MAX_PIXELS, help="larger images are removed")
    _add_common(parser)


SUBCOMMANDS = {
    "deduplicate": Subcommand(
        "dino_jax.curation.deduplicate",
        "Removes near-copies, also those of evaluation images.",
        add_deduplicate,
    ),
    "cluster": Subcommand(
        "dino_jax.curation.cluster",
        "Groups images into clusters, and clusters into larger ones.",
        add_cluster,
    ),
    "sample": Subcommand(
        "dino_jax.curation.sample",
        "Takes images evenly from all clusters, level by level.",
        add_sample,
    ),
    "balance": Subcommand(
        "dino_jax.curation.balance",
        "Keeps at most so many images of each cluster.",
        add_balance,
    ),
    "retrieve": Subcommand(
        "dino_jax.curation.retrieve",
        "Finds the images of a pool that are like given ones.",
        add_retrieve,
    ),
    "filter": Subcommand(
        "dino_jax.curation.filter",
        "Removes images that are tiny, blurred or nearly of one color.",
        add_filter,
    ),
}
