"""Makes a training set of a crawl: removes near-copies, balances, finds what is like given images.

  dino-jax curate filter EMBEDDED --out=DIR          tiny, blurred, nearly of one color
  dino-jax curate deduplicate EMBEDDED --out=DIR [--threshold=0.6] [--against=EVALUATION]
  dino-jax curate cluster EMBEDDED --out=TREE [--clusters 10000 500 50]
  dino-jax curate sample TREE --out=DIR --target=N
  dino-jax curate balance TREE --out=DIR --cap=N
  dino-jax curate retrieve EMBEDDED --out=DIR --seeds=EMBEDDED [--nearest=4 | --tree=TREE]

EMBEDDED is a folder of dino-jax embed; vectors are compared by their cosine. --of=DIR takes only
the images that an earlier step has kept. A result is a list that trainings read:

  --config.data.kind=list --config.data.path=DIR/kept.txt     where images are files
  kind = "chosen", path = "DIR/kept.csv", sources.pool = …    of any source

removed.csv says what went and why. Nothing is deleted. A command that was stopped goes on when it
is started again. With --beam the same work is done by Apache Beam ('dino_jax[beam]'), with the same
bytes as a result, whatever the number of workers:

  … --beam --runner=DirectRunner --direct_running_mode=multi_processing --direct_num_workers=16

docs/curation.md is a tutorial.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dino_jax.commands.command_line import CommandParser, docstring_of
from dino_jax.curation.options import SUBCOMMANDS

if TYPE_CHECKING:
    from dino_jax.curation.runner import Runner

STOPPED = "what is done stays; the same command goes on"


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The command line, and what is for Beam; help and wrong usage end the program."""
    parser = CommandParser("curate", __doc__ or docstring_of(__file__))
    parts = parser.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")
    for name, one in SUBCOMMANDS.items():
        one.add(parts.add_parser(name, help=one.help, description=one.help))
    given, unknown = parser.parse_known_args(argv)
    if unknown and not given.beam:
        parser.refuse(unknown)
    return given, unknown


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    arguments, for_beam = parse(argv)
    # What the work needs, for a command line that is right.
    from dino_jax.commands.command_line import run_command
    from dino_jax.commands.one_writer import one_writer
    from dino_jax.commands.signals import Stopped, stop_on_signals
    from dino_jax.workdir.paths import absolute_path

    def work() -> str:
        arguments.out = str(absolute_path(arguments.out))
        runner = _open_runner(arguments, for_beam)
        module = importlib.import_module(SUBCOMMANDS[arguments.subcommand].module)
        with one_writer(arguments.out, "--out"):
            return module.work(arguments, runner)

    try:
        with stop_on_signals():
            return run_command(work)
    except Stopped as stopped:
        print(f"{stopped.name}: {STOPPED}", file=sys.stderr)
        return stopped.exit_code


def _open_runner(arguments: argparse.Namespace, for_beam: Sequence[str]) -> "Runner":
    """The runner that was asked for.

    Raises:
      ImportError: if Beam is not installed.
    """
    from dino_jax.curation.runner import LocalRunner

    if not arguments.beam:
        return LocalRunner()
    try:
        from dino_jax.curation.beam_runner import BeamRunner
    except ImportError as error:
        raise ImportError(
            f"--beam needs Apache Beam ({error}): pip install 'dino_jax[beam]'"
        ) from error
    return BeamRunner(for_beam, f"{arguments.out}/steps/beam")


if __name__ == "__main__":
    sys.exit(main())
