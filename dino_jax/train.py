"""Trains a network; the same command on the same workdir resumes.

  dino-jax train --config=NAME_OR_FILE --workdir=DIR [--config.a.b=value …]
  dino-jax train PHOTOS [--workdir=DIR] [--config.a.b=value …]

The second form takes the config small_data, chooses sizes and length that fit the images below the
folder PHOTOS and this machine, and prints each with its reason; the workdir is runs/PHOTOS.

Exit codes: 0 done, 1 given up (numbers that are not finite, images that cannot be read, a teacher
worse than the model that it started from, a collapse if asked, a workdir that cannot be written any
more), 2 wrong usage, 75 SIGTERM and 130 Ctrl-C (both saved), 75 also if an input worker was killed
(saved), or another process has died or did not start: run the same command again.
"""

import sys
from collections.abc import Sequence

from dino_jax.commands.all_processes import told_to_all
from dino_jax.commands.command_line import UsageError, add_switch, docstring_of, fail
from dino_jax.commands.config_command import ConfigArguments, config_parser
from dino_jax.run.arguments import parse_run


def parse(argv: Sequence[str] | None) -> ConfigArguments:
    """The command line; help and wrong usage end the program."""
    given = sys.argv[1:] if argv is None else list(argv)
    if given and given[0] and not given[0].startswith("-"):
        argv = _of_photos(*given)
    parser = config_parser("train", __doc__ or docstring_of(__file__))
    parser.add_argument("--workdir", help="folder of the run, local or gs://")
    add_switch(parser, "--distributed", "one of several processes, as on a pod")
    return parse_run(parser, argv)


def _of_photos(photos: str, *rest: str) -> list[str]:
    from dino_jax.run.photos import complete_arguments  # jax, to know the devices

    try:
        return complete_arguments(photos, rest)
    except UsageError as error:
        fail(error)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    with told_to_all(argv):
        given = parse(argv)
    from dino_jax.run.training import run  # jax, for a command line that is right

    return run(given)


if __name__ == "__main__":
    sys.exit(main())
