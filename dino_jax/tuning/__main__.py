"""Tunes on photos of the same products, and hands out only what finds more than the frozen model.

  dino-jax tune SOURCE --out=DIR --sku=COLUMN            an adapter on stored vectors: minutes
  dino-jax tune SOURCE --out=DIR --pairs=PAIRS.csv       CSV of two names a line

SOURCE is an index of dino-jax search, or a folder of dino-jax embed. COLUMN is one of the index, of
--metadata, or label: the sub-folders of the photos. Whole SKUs are held out, and Recall@1 on them
is measured before the first step and at every evaluation.

Exit code 0: DIR holds what was learned; dino-jax search build NEW --from=SOURCE --adapter=DIR makes
an index of it, and nothing is embedded again. Exit code 1: the frozen features are not beaten by
more than the uncertainty of the gain, so there is nothing in DIR but tuning.json, which says what
was measured. docs/tuning.md shows a whole day of it.
"""

import argparse
import sys
from collections.abc import Sequence

from dino_jax.commands.arguments import (
    COUNT,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    filled,
    real,
    whole,
)
from dino_jax.commands.command_line import CommandParser, add_switch, docstring_of

WHATS = ("adapter",)
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
    add("--photos", type=whole(2, 1 << 10), help="of each; default: 4, of plain pairs 2")
    add("--epochs", type=POSITIVE, default=20.0, help="passes over the SKUs")
    add("--lr", type=POSITIVE, default=1e-3, help="of Adam")
    add("--weight-decay", type=NOT_NEGATIVE, default=1e-6, help="added to the gradient")
    add("--seed", type=SEED, default=0, help="of the split, the batches and the first weights")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; help and wrong usage end the program."""
    parser = CommandParser("tune", __doc__ or docstring_of(__file__))
    add = parser.add_argument
    add_source(add)
    add_learning(add)
    add_measure(add)
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
