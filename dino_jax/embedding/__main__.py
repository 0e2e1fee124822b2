"""Turns images into vectors, for search, clustering or a classifier of your own.

  dino-jax embed MODEL SOURCE --out=DIR [--tokens=cls|mean|both] [--layers=1]
      [--normalize] [--reduce=pca|random --dim=512] [--format=npy|parquet]

  dino-jax embed runs/quickstart --kind=digits --out=digits_embedded --normalize
  dino-jax embed dinov2_vits14_pretrain.pth photos/ --out=embedded \
    --reduce=pca --dim=128

MODEL is the workdir of a run (its teacher) or a file of official weights; SOURCE is a folder, or
what --kind says, as in dino-jax build.

The folder then holds shards of vectors with the names of their images (dino_jax.embedding.shards
names the files), embed.json (the options) and projection.npz. Images that cannot be read have no
row; they are counted, and named in unreadable-*.txt.

Ctrl-C and SIGTERM (exit codes 130 and 75) leave the finished shards; the same command continues.
Other options on the same folder are refused. On a pod, start the same command with --distributed on
all hosts: each makes its share of the shards, and the files do not depend on their number.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from dino_jax.commands.all_processes import told_to_all
from dino_jax.commands.arguments import BATCH, COUNT, LAYERS, SIDE, STEP, THREADS, filled
from dino_jax.commands.command_line import CommandParser, docstring_of
from dino_jax.commands.source_arguments import add_source_arguments
from dino_jax.config.range import MAX_PIXELS
from dino_jax.embedding.choices import FORMATS, REDUCTIONS, TOKENS


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; help and wrong usage end the program."""
    parser = CommandParser("embed", __doc__ or docstring_of(__file__))
    add = parser.add_argument
    add(
        "model", type=filled, help="workdir of a run, folder of dino-jax import, or file of weights"
    )
    add_source_arguments(parser)
    add("--out", type=filled, required=True, help="new folder for the vectors, local or gs://")
    add("--step", type=STEP, help="checkpoint of a workdir; default: the newest")
    add("--tokens", choices=TOKENS, default="cls", help="cls, mean (of the patches) or both")
    add("--layers", type=LAYERS, default=1, help="number of last blocks whose features are used")
    add("--normalize", action="store_true", help="vectors of length 1")
    add("--reduce", choices=REDUCTIONS, default="none", help="none, pca or random (projection)")
    add("--dim", type=COUNT, default=512, help="numbers per image after --reduce")
    add("--sample", type=COUNT, default=20_000, help="images from which PCA is computed")
    add("--format", choices=FORMATS, default="npy", help="npy or parquet")
    add("--shard-images", type=COUNT, default=10_000, help="images per file")
    add("--image-size", type=SIDE, help="pixels; default: as the model was evaluated")
    add("--max-pixels", type=COUNT, default=MAX_PIXELS, help="larger images count as unreadable")
    add("--batch-size", type=BATCH, default=128, help="images per batch, per process")
    add("--threads", type=THREADS, default=min(16, os.cpu_count() or 1), help="that decode")
    add("--distributed", action="store_true", help="one of several processes, as on a pod")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    with told_to_all(argv):
        arguments = parse(argv)
    from dino_jax.embedding.embed import run  # jax, for a command line that is right

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
