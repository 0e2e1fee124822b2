"""Writes a report: one offline HTML page about one run, or about several drawn over each other.

  dino-jax report WORKDIR [WORKDIR…] [--out=FILE]

Works while a run is still training. Without --out the file is report.html in the workdir, or
comparison.html in the current folder for several.
"""

import argparse
import sys
from collections.abc import Sequence

from etils import epath

from dino_jax.commands.arguments import filled
from dino_jax.commands.command_line import CommandParser, docstring_of, run_command
from dino_jax.report.write import write_report
from dino_jax.workdir.layout import REPORT_HTML

COMPARISON_HTML = "comparison.html"


def report(arguments: argparse.Namespace) -> str:
    """Writes the page; returns a line about it."""
    several = len(arguments.workdirs) > 1
    default = COMPARISON_HTML if several else epath.Path(arguments.workdirs[0]) / REPORT_HTML
    out = arguments.out or default
    size = write_report(arguments.workdirs, out)
    return f"{out}: {size / 1e6:.2f} MB"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; help and wrong usage end the program."""
    parser = CommandParser("report", __doc__ or docstring_of(__file__))
    parser.add_argument(
        "workdirs",
        type=filled,
        nargs="+",
        metavar="WORKDIR",
        help="workdirs of runs, local or gs://",
    )
    parser.add_argument(
        "--out", type=filled, metavar="FILE", help="HTML file to write, local or gs://"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    arguments = parse(argv)
    return run_command(lambda: report(arguments))


if __name__ == "__main__":
    sys.exit(main())
