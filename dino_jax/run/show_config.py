"""Prints a config: every option with its value and meaning, and what differs from the base.

  dino-jax config NAME_OR_FILE [--config.a.b=value …]

A line is "* config.optimizer.lr = 0.001  # meaning; base: 0.0005". A star marks what differs from
the base, the vanilla ViT-S/16 run of DINO (--base=NAME: from another config). Every option can be
overridden under its name: --config.optimizer.lr=0.01.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dino_jax.commands.command_line import docstring_of, run_command
from dino_jax.commands.config_command import ConfigArguments, config_parser
from dino_jax.commands.config_file import describe_shipped, load_config
from dino_jax.config.describe import describe_config
from dino_jax.run.arguments import parse_run

if TYPE_CHECKING:
    from dino_jax.run.whole_config import Config


def show_config(config: "Config", base: str = "") -> str:
    """The lines of a config.

    Args:
      config: config of a run.
      base: name or file of the config to compare with; "": the defaults.
    """
    from dino_jax.run.whole_config import Config, complete_config, read_config  # jax

    other = read_config(complete_config(load_config(base))) if base else Config()
    return "\n".join(describe_config(config, other))


def parse(argv: Sequence[str] | None) -> ConfigArguments:
    """The command line; help and wrong usage end the program."""
    about = __doc__ or docstring_of(__file__)
    parser = config_parser("config", f"{about}\nShipped configs:\n\n{describe_shipped()}\n")
    parser.add_argument("--base", default="", help="config that this one is compared with")
    given = list(sys.argv[1:] if argv is None else argv)
    if given and not given[0].startswith("-"):  # the name alone
        given[0] = f"--config={given[0]}"
    return parse_run(parser, given, ("config",), "dino-jax config quickstart")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    given = parse(argv)
    return run_command(lambda: show_config(given.config, given.options.base))


if __name__ == "__main__":
    sys.exit(main())
