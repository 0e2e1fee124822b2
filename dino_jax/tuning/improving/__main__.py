"""Continues a model on a folder of photos, and hands out only what is better than it was.

  dino-jax improve MODEL PHOTOS --out=DIR --hours=2

MODEL is what dino-jax embed takes: the workdir of a run, a folder of dino-jax import, or a file of
weights. PHOTOS need no labels. A part of them is held out, and the model is measured there before
the first step and at every evaluation: by the classes of the photos if they lie in one folder per
class (or --label), by products (--sku), else by whether two views of a photo find each other.

Exit code 0: DIR is a better model, used like the folder of dino-jax import. Exit code 1: nothing
was gained beyond the uncertainty of that, and nothing is handed out; DIR/improve.json says what was
measured. DIR/run is the run itself, with its config, numbers and report. The same command goes on
after Ctrl-C (130) or SIGTERM (75). See docs/improving.md.
"""

import argparse
import sys
from collections.abc import Sequence

from dino_jax.commands.arguments import (
    BATCH,
    COUNT,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    STEP,
    WORKERS,
    filled,
    real,
    whole,
)
from dino_jax.commands.command_line import CommandParser, add_switch, docstring_of
from dino_jax.config.range import MAX_PIXELS

WHATS = ("lora", "blocks", "all")


def add_length(add) -> None:
    add("--hours", type=POSITIVE, help="time that it may take; steps follow from how fast they are")
    add("--steps", type=COUNT, help="instead: number of updates")
    add("--evaluations", type=whole(1, 1000), default=10, help="looks at the held-out photos")
    add(
        "--patience",
        type=whole(0, 1000),
        default=4,
        help="looks in a row without a better one, after which it ends; 0: never",
    )


def add_learning(add) -> None:
    add("--what", choices=WHATS, default="lora", help="what of the backbone learns")
    add("--lr", type=POSITIVE, help="of the backbone; default: lora 1e-3, blocks 1e-4, all 2e-5")
    add("--blocks", type=COUNT, default=2, help="last blocks that learn (blocks)")
    add("--rank", type=COUNT, default=8, help="of the matrices beside the weights (lora)")
    add("--alpha", type=POSITIVE, help="their factor times --rank; default: twice that (lora)")
    add(
        "--layer-decay",
        type=real(above=0, at_most=1),
        default=0.8,
        help="rate factor from a block to the one before (all)",
    )
    add(
        "--preserve",
        type=NOT_NEGATIVE,
        default=1.0,
        help="weight of staying close to the model as it was; 0: it need not",
    )
    add("--batch-size", type=BATCH, help="photos per update; default: 64, or those of the run")
    add("--seed", type=SEED, default=0, help="of the split, the crops and the heads")


def add_judge(add) -> None:
    add("--label", default="", help="column of --metadata with the class; default: the sub-folders")
    add(
        "--sku", default="", help="column of --metadata with the product, or label: the sub-folders"
    )
    add("--metadata", default="", help="CSV or Parquet, a row per photo")
    add("--key", default="name", help="its column with the names of the photos below PHOTOS")
    add(
        "--held-out", type=real(at_least=0.05, at_most=0.9), default=0.2, help="share of the photos"
    )


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; help and wrong usage end the program."""
    parser = CommandParser("improve", __doc__ or docstring_of(__file__))
    add = parser.add_argument
    add("model", type=filled, help="workdir, folder of dino-jax import, or file of weights")
    add("photos", type=filled, help="folder of photos")
    add("--out", type=filled, required=True, help="new folder for the model, local or gs://")
    add("--step", type=STEP, help="checkpoint of a workdir; default: the newest")
    add_length(add)
    add_learning(add)
    add_judge(add)
    add_switch(parser, "--without-labels", "judge by views, although there are sub-folders")
    add("--max-pixels", type=COUNT, default=MAX_PIXELS, help="larger photos count as unreadable")
    add("--workers", type=WORKERS, default=0, help="input processes; 0: threads of this one")
    add("--distributed", action="store_true", help="one of several processes, as on a pod")
    given = parser.parse_args(argv)
    if (given.hours is None) == (given.steps is None):
        parser.error("how long? Pass either --hours=N or --steps=N")
    if given.label and given.sku:
        parser.error("--label and --sku exclude each other")
    if given.without_labels and (given.label or given.sku):
        parser.error("--without-labels takes no --label and no --sku")
    if given.label and not given.metadata:
        parser.error("--label is a column of --metadata; sub-folders are taken without it")
    if given.sku and given.sku != "label" and not given.metadata:
        parser.error("--sku is a column of --metadata, or label: the sub-folders")
    if given.metadata and not (given.label or given.sku):
        parser.error("--metadata is for --label or --sku")
    return given


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    arguments = parse(argv)
    from dino_jax.tuning.improving.command import run  # jax, for a command line that is right

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
