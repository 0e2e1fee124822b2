"""Exports a trained backbone under the names of another code base.

  dino-jax export MODEL --out=FILE --names=official|huggingface [--heads] [--step=N]

MODEL is the workdir of a run (its teacher), a folder of dino-jax import, or a file of
weights. FILE is .safetensors, or .pth where torch is installed. Official names are those of
the released files of DINO and DINOv2; --heads adds the projection heads, as in the checkpoints of
training runs. With --names=huggingface config.json is written beside FILE; --out=DIR makes
DIR/model.safetensors, and transformers' from_pretrained(DIR) reads it.

The file is read back and checked: all numbers are the same, and so are the features of random
images.
"""

import argparse
import sys
from collections.abc import Sequence

from dino_jax.commands.arguments import STEP, filled
from dino_jax.commands.command_line import CommandParser, docstring_of

NAMES = ("official", "huggingface")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; help and wrong usage end the program."""
    parser = CommandParser("export", __doc__ or docstring_of(__file__))
    add = parser.add_argument
    add("model", type=filled, help="workdir of a run, folder of an import, or file of weights")
    add("--out", type=filled, required=True, help="new file, .safetensors or .pth")
    add("--names", required=True, choices=NAMES, help="whose names")
    add("--heads", action="store_true", help="with the projection heads (official)")
    add("--step", type=STEP, help="checkpoint of a workdir; default: the newest")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    given = parse(argv)
    from dino_jax.weights.exporting import run  # jax, for a command line that is right

    return run(given)


if __name__ == "__main__":
    sys.exit(main())
