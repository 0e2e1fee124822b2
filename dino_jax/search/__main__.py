"""Searches a catalogue of photos: an index, exact answers, duplicates, measures, and a page.

  dino-jax search build INDEX MODEL PHOTOS [--other=CLIP]    photos, or
  dino-jax search build INDEX [MODEL] --from=DIR    what dino-jax embed has made
  dino-jax search update INDEX [PHOTOS]             new, changed, renamed and vanished photos
  dino-jax search remove INDEX NAME… | --where …
  dino-jax search compact INDEX
  dino-jax search approximate INDEX                 optional: lists of faiss, for many millions
  dino-jax search query INDEX photo.jpg… [--box=X0,Y0,X1,Y1] [-k 10] [--where 'price<100']
  dino-jax search query INDEX --text 'teak table'   by CLIP or SigLIP
  dino-jax search duplicates INDEX [--threshold=0.95 --out=DIR]
  dino-jax search evaluate INDEX --label=sku [--against=OTHER]
  dino-jax search serve INDEX [--port=8000]

MODEL is the workdir of a run (its teacher), a folder of dino-jax import or a file of official
weights. Answers are exact: the nearest photos of all, whatever the filters. docs/catalogue.md is a
tutorial.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from dino_jax.commands.command_line import CommandParser, docstring_of
from dino_jax.search.options import SUBCOMMANDS


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; help and wrong usage end the program."""
    parser = CommandParser("search", __doc__ or docstring_of(__file__))
    parts = parser.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")
    for name, one in SUBCOMMANDS.items():
        one.add(parts.add_parser(name, help=one.help, description=one.help))
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    arguments = parse(argv)
    # What the work needs, for a command line that is right.
    return importlib.import_module(SUBCOMMANDS[arguments.subcommand].module).run(arguments)


if __name__ == "__main__":
    sys.exit(main())
