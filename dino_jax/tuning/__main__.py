"""Tunes on photos of the same products, and hands out only what finds more than the frozen model.

  dino-jax tune SOURCE --out=DIR --sku=COLUMN            an adapter on stored vectors: minutes
  dino-jax tune SOURCE --out=DIR --pairs=PAIRS.csv       CSV of two names a line
  dino-jax tune SOURCE --out=DIR --sku=COLUMN --what=lora|blocks|all     the network, on the photos

SOURCE is an index of dino-jax search, or a folder of dino-jax embed. COLUMN is one of the index, of
--metadata, or label: the sub-folders of the photos. Whole SKUs are held out, and Recall@1 on them
is measured before the first step and at every evaluation.

Exit code 0: DIR holds what was learned; dino-jax search build NEW --from=SOURCE --adapter=DIR makes
an index of an adapter, and nothing is embedded again; a network is a folder like those of dino-jax
import. Exit code 1: the frozen features are not beaten by
more than the uncertainty of the gain, so there is nothing in DIR but tuning.json, which says what
was measured. docs/tuning.md shows a whole day of it.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from dino_jax.commands.arguments import (
    BATCH,
    COUNT,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    STEP,
    THREADS,
    filled,
    real,
    whole,
)
from dino_jax.commands.command_line import CommandParser, add_switch, docstring_of
from dino_jax.config.range import MAX_PIXELS

WHATS = ("adapter", "lora", "blocks", "all")
LOSSES = ("supcon", "symmetric", "ntxent", "multi_similarity", "triplet", "arcface")
COSINE = real(above=0, at_most=1)


def add_source(add) -> None:
    add("source", type=filled, help="index of dino-jax search, or folder of dino-jax embed")
    add("--out", type=filled, required=True, help="new folder for what is handed out")
    add("--sku", default="", help="column: photos of one value show one product")
    add("--pairs", default="", help="instead: CSV of two names of photos a line")
    add("--metadata", default="", help="CSV or Parquet with the column --sku, a row per photo")
    add("--key", default="name", help="its column with the names of the photos")


def add_measure(add) -> None:
    add("--held-out", type=real(at_least=0.1, at_most=0.9), default=0.2, help="share of the SKUs")
    add(
        "--gallery",
        choices=("held-out", "all"),
        default="held-out",
        help="photos that are searched: those of held-out SKUs, or all",
    )
    add("--near", type=COSINE, default=0.98, help="cosine above which photos are almost the same")
    add("--evaluations", type=whole(1, 1000), default=5, help="looks at the held-out SKUs")


def add_learning(add) -> None:
    add("--what", choices=WHATS, default="adapter", help="what is tuned")
    add("--loss", choices=LOSSES, help="default: by the number of photos of a SKU")
    add(
        "--loss-option",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="options of the loss, such as temperature=0.05",
    )
    add("--dim", type=COUNT, help="numbers per photo; default: as before, from the identity")
    add("--skus", type=whole(2, 1 << 20), default=32, help="of a batch")
    add("--category", default="", help="column: a batch has SKUs of few categories, harder to tell")
    add("--categories", type=COUNT, default=3, help="of a batch, with --category")
    add("--photos", type=whole(2, 1 << 10), help="of each; default: 4, of plain pairs 2")
    add("--epochs", type=POSITIVE, default=20.0, help="passes over the SKUs")
    add(
        "--lr", type=POSITIVE, help="of Adam; default: adapter and lora 1e-3, blocks 1e-4, all 1e-5"
    )
    add(
        "--weight-decay",
        type=NOT_NEGATIVE,
        help="added to the gradient; default: of an adapter 1e-6, else 0",
    )
    add("--seed", type=SEED, default=0, help="of the split, the batches and the first weights")


def add_photos(add) -> None:
    add("--model", default="", help="model of the vectors; default: from where the index has it")
    add("--step", type=STEP, help="checkpoint of a workdir; default: that of the index")
    add("--photo-folder", default="", help="folder of the photos, if it has moved")
    add("--blocks", type=COUNT, default=2, help="last blocks that learn (blocks)")
    add("--rank", type=COUNT, default=8, help="of the matrices beside the weights (lora)")
    add("--alpha", type=POSITIVE, help="their factor times --rank; default: twice that (lora)")
    add(
        "--layer-decay",
        type=real(above=0, at_most=1),
        default=1.0,
        help="rate factor from a block to the one before (blocks, all)",
    )
    add("--batch-size", type=BATCH, default=64, help="photos that are embedded at once")
    add("--max-pixels", type=COUNT, default=MAX_PIXELS, help="larger photos count as unreadable")
    add("--threads", type=THREADS, default=min(16, os.cpu_count() or 1), help="that decode")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; help and wrong usage end the program."""
    parser = CommandParser("tune", __doc__ or docstring_of(__file__))
    add = parser.add_argument
    add_source(add)
    add_learning(add)
    add_measure(add)
    add_photos(add)
    add_switch(parser, "--merge", "SKUs with almost the same photos are one product")
    add_switch(parser, "--ignore", "they are different products nevertheless")
    add_switch(
        parser, "--shuffle", "the control: SKUs are dealt out at random, and must be refused"
    )
    add("--distributed", action="store_true", help="one of several processes, as on a pod")
    given = parser.parse_args(argv)
    if bool(given.sku) == bool(given.pairs):
        parser.error("which photos show the same product? Pass either --sku=COLUMN or --pairs=FILE")
    if given.pairs and given.metadata:
        parser.error("--metadata is for --sku, not for --pairs")
    if given.merge and given.ignore:
        parser.error("--merge and --ignore exclude each other")
    if given.loss == "symmetric" and given.photos not in (None, 2):
        parser.error(f"--loss=symmetric takes 2 photos of each SKU, not --photos={given.photos}")
    return given


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    arguments = parse(argv)
    from dino_jax.tuning.command import run  # jax, for a command line that is right

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
