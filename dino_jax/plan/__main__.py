"""Tells before renting what a run needs on TPU slices, and how fast it can be at most.

  dino-jax plan --config=NAME_OR_FILE --topology=v5e:4x4 [--config.a.b=value …]

Compiles the real train step for the slices, without a TPU. Several slices are separated by commas;
the batch size is that of the config for all. Exit code 2 for wrong usage.
"""

import sys
from collections.abc import Sequence

from dino_jax.commands.arguments import COUNT
from dino_jax.commands.command_line import add_switch, docstring_of
from dino_jax.commands.config_command import ConfigArguments, config_parser
from dino_jax.run.arguments import parse_run

IMAGENET_1K = 1_281_167  # training images


def parse(argv: Sequence[str] | None) -> ConfigArguments:
    """The command line; help and wrong usage end the program."""
    parser = config_parser("plan", __doc__ or docstring_of(__file__))
    add = parser.add_argument
    add("--topology", help="TPU slices, such as v5e:4x4,v5p:4x4x4; 2xv5e:4x4: two together")
    add(
        "--images",
        type=COUNT,
        default=IMAGENET_1K,
        help=f"images of the training set; default: ImageNet-1k's {IMAGENET_1K:,}",
    )
    add_switch(
        parser, "--search", "look for the largest batch (default), about three times as long", True
    )
    add_switch(parser, "--json", "print one JSON list instead of a table")
    needs = ("config", "topology")
    example = "dino-jax plan --config=vits16_vanilla --topology=v5e:4x4"
    return parse_run(parser, argv, needs, example)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    given = parse(argv)
    from dino_jax.plan.slices import run  # jax, for a command line that is right

    return run(given)


if __name__ == "__main__":
    sys.exit(main())
