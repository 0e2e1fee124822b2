"""Turns images into vectors, for search, clustering or a classifier of your own.

  dino-jax embed MODEL SOURCE --out=DIR [--tokens=cls|mean|both] [--layers=1]
      [--normalize] [--reduce=pca|random --dim=512] [--format=npy|parquet]
  dino-jax embed MODEL SOURCE --out=DIR --tokens=patches [--image-size=S | --own-size]
      [--tile=672] [--overlap=168] [--dtype=float16|float32] [--layers=1] [--normalize]

  dino-jax embed runs/quickstart --kind=digits --out=digits_embedded --normalize
  dino-jax embed dinov2_vits14_pretrain.pth photos/ --out=embedded \
    --reduce=pca --dim=128

MODEL is the workdir of a run (its teacher) or a file of official weights; SOURCE is a folder, or
what --kind says, as in dino-jax build.

The folder then holds shards of vectors with the names of their images (dino_jax.embedding.shards
names the files), embed.json (the options) and projection.npz. Images that cannot be read have no
row; they are counted, and named in unreadable-*.txt.

With --tokens=patches there is a vector for each patch. Images keep their aspect: S is their short
side in pixels; --own-size keeps their size, too. What is larger than a tile is embedded tile by
tile. dino_jax.embedding.dense_shards describes the files.

Ctrl-C and SIGTERM (exit codes 130 and 75) leave the finished shards; the same command continues.
Other options on the same folder are refused. On a pod, start the same command with --distributed on
all hosts: each makes its share of the shards, and the files do not depend on their number.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from dino_jax.commands.all_processes import told_to_all
from dino_jax.commands.arguments import BATCH, COUNT, LAYERS, OVERLAP, SIDE, STEP, THREADS, filled
from dino_jax.commands.command_line import CommandParser, docstring_of
from dino_jax.commands.model_arguments import add_compute_argument
from dino_jax.commands.source_arguments import add_source_arguments
from dino_jax.config.range import MAX_PIXELS
from dino_jax.embedding.choices import (
    DTYPES,
    FORMATS,
    OF_PATCHES,
    OF_VECTORS,
    PATCHES,
    REDUCTIONS,
    TOKENS,
)


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
    add(
        "--tokens",
        choices=TOKENS,
        default="cls",
        help="cls, mean (of the patches), both or patches",
    )
    add("--layers", type=LAYERS, default=1, help="number of last blocks whose features are used")
    add("--normalize", action="store_true", help="vectors of length 1")
    add("--reduce", choices=REDUCTIONS, default="none", help="none, pca or random (projection)")
    add("--dim", type=COUNT, default=512, help="numbers per image after --reduce")
    add("--sample", type=COUNT, default=20_000, help="images from which PCA is computed")
    add("--format", choices=FORMATS, default="npy", help="npy or parquet")
    add_compute_argument(parser)
    add("--tile", type=SIDE, help="pixels of a tile's side; default: 48 patches (patches)")
    add(
        "--overlap",
        type=OVERLAP,
        help="pixels that tiles share, or 0; default: a quarter (patches)",
    )
    add("--dtype", choices=DTYPES, default="float16", help="of the features (patches)")
    add("--own-size", action="store_true", help="images keep their size (patches)")
    add("--shard-images", type=COUNT, help="images per file; default: 10,000, 200 of patches")
    add("--image-size", type=SIDE, help="pixels; default: as the model was evaluated")
    add("--max-pixels", type=COUNT, default=MAX_PIXELS, help="larger images count as unreadable")
    add(
        "--batch-size",
        type=BATCH,
        help="images per batch, per process; default: 128; of patches 8 tiles a device, CPUs 1",
    )
    add("--threads", type=THREADS, default=min(16, os.cpu_count() or 1), help="that decode")
    add("--distributed", action="store_true", help="one of several processes, as on a pod")
    given = parser.parse_args(argv)
    dense = given.tokens == PATCHES
    for name in OF_VECTORS if dense else OF_PATCHES:
        if getattr(given, name) != parser.get_default(name):
            parser.error(f"--{name.replace('_', '-')} is not for --tokens={given.tokens}")
    if given.reduce == "none" and given.dim != parser.get_default("dim"):
        parser.error(f"--dim={given.dim} needs --reduce=pca or --reduce=random")
    if given.own_size and given.image_size:
        parser.error(f"--own-size and --image-size={given.image_size} exclude each other")
    given.batch_size = given.batch_size or (None if dense else 128)
    given.shard_images = given.shard_images or (200 if dense else 10_000)
    return given


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    with told_to_all(argv):
        arguments = parse(argv)
    # jax, for a command line that is right
    if arguments.tokens == PATCHES:
        from dino_jax.embedding.patches import run
    else:
        from dino_jax.embedding.embed import run
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
