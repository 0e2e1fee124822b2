"""Writes a report: python -m dino_jax.report WORKDIR [WORKDIR…] [--out=FILE].

One offline HTML file about one run, or about several drawn over each other. Works while a run is
still training. Without --out the file is report.html in the workdir, or comparison.html in the
current folder for several.
"""

import argparse
import sys
from collections.abc import Sequence

from etils import epath

from dino_jax.report.write import write_report
from dino_jax.workdir.layout import REPORT_HTML

WRONG_USAGE = 2  # as argparse's
COMPARISON_HTML = "comparison.html"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser("python -m dino_jax.report", description=__doc__)
    parser.add_argument("workdirs", nargs="+", metavar="WORKDIR", help="of a run, local or gs://")
    parser.add_argument("--out", metavar="FILE", help="HTML file to write, local or gs://")
    arguments = parser.parse_args(argv)
    several = len(arguments.workdirs) > 1
    default = COMPARISON_HTML if several else epath.Path(arguments.workdirs[0]) / REPORT_HTML
    out = arguments.out or default
    try:
        size = write_report(arguments.workdirs, out)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_USAGE
    print(f"{out}: {size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
