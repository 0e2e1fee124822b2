"""Checks whether a training can start here, and says how to fix what is wrong.

  dino-jax doctor [--config=NAME_OR_FILE --workdir=DIR] [--config.a.b=value …]

One line per check: OK, WARN or FAIL, and the fix. Exit code 1 if anything fails, 2 for wrong usage.
Takes the options of dino-jax train; without --config and --workdir it checks the machine only. On a
pod run it on all hosts with --distributed: the first one tells what the others found.
"""

import sys
from collections.abc import Sequence

from dino_jax.commands.all_processes import told_to_all
from dino_jax.commands.arguments import NOT_NEGATIVE, real
from dino_jax.commands.command_line import add_switch, docstring_of
from dino_jax.commands.config_command import ConfigArguments, config_parser
from dino_jax.run.arguments import parse_run


def parse(argv: Sequence[str] | None) -> ConfigArguments:
    """The command line; help and wrong usage end the program."""
    parser = config_parser("doctor", __doc__ or docstring_of(__file__))
    add = parser.add_argument
    add("--workdir", help="folder of the run, local or gs://")
    add_switch(parser, "--distributed", "one of several processes, as on a pod")
    add("--platform", choices=["cpu", "gpu", "tpu"], help="what jax should use")
    add("--need", type=NOT_NEGATIVE, default=0.0, help="images/s that all devices will take")
    add(
        "--seconds",
        type=real(at_least=0, at_most=3600),
        default=5.0,
        help="how long to measure the input",
    )
    return parse_run(parser, argv, needs=())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    with told_to_all(argv):
        given = parse(argv)
    from dino_jax.doctor.examine import run_checks  # jax, for a command line that is right

    return run_checks(given)


if __name__ == "__main__":
    sys.exit(main())
