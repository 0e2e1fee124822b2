"""Command lines of the form --config=NAME --config.a.b=value, beside options of their own."""

import argparse
import contextlib
import faulthandler
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from absl import flags, logging
from ml_collections import ConfigDict

from dino_jax.commands.command_line import CommandParser, UsageError, fail
from dino_jax.commands.config_file import load_config, shipped_configs
from dino_jax.commands.jax_switches import ignore_switches
from dino_jax.commands.overrides import apply_overrides, is_override
from dino_jax.config.range import shorten

EXAMPLE = "dino-jax train --config=quickstart --workdir=runs/quickstart"


class ConfigArguments(NamedTuple):
    """A parsed command line.

    Attributes:
      options: options of the command; `options.config` names the config.
      config: typed config with the overrides; None without --config.
      default: config as its file makes it.
    """

    options: argparse.Namespace
    config: Any
    default: Any


def config_parser(prog: str, description: str | None) -> CommandParser:
    """A parser with --config; for the arguments see `CommandParser`."""
    parser = CommandParser(
        prog,
        description,
        epilog=textwrap.fill(
            "Every value of a config can be overridden: --config.optimizer.lr=0.001, a tuple as "
            "--config.profile.steps='(10, 12)'. `dino-jax config NAME` lists all names with their "
            f"values and meanings. Shipped configs: {', '.join(shipped_configs())}.",
            width=100,
            break_on_hyphens=False,
        ),
    )
    parser.add_argument("--config", help="name of a shipped config, or path of a file")
    return parser


def parse_with_config(
    parser: CommandParser,
    argv: Sequence[str] | None,
    needs: Sequence[str] = ("config", "workdir"),
    example: str = EXAMPLE,
    *,
    complete: Callable[[ConfigDict], ConfigDict],
    read: Callable[[ConfigDict], Any],
) -> ConfigArguments:
    """Parses a command line; a mistake in it ends the program with one line.

    Args:
      parser: made by `config_parser`.
      argv: None: that of the process.
      needs: options that must be given.
      example: a correct command.
      complete: gives a config the options that its file leaves out, so that they can be overridden.
      read: makes a typed config of it; raises ValueErrors.
    """
    options, rest = parser.parse_known_args(argv)
    missing = [f"--{name}" for name in needs if not getattr(options, name)]
    if missing:
        fail(f"missing {' and '.join(missing)}; a command looks like {example}")
    if not options.config:
        _refuse_overrides(rest)
    if unknown := [x for x in rest if _is_unknown(x)]:  # before `complete`, which may take seconds
        parser.refuse(unknown)
    try:
        config = complete(load_config(options.config)) if options.config else None
        default = config.copy_and_resolve_references() if config is not None else None
        if config is not None:
            rest = apply_overrides(config, rest)
        typed = read(config) if config is not None else None
        rest = flags.FLAGS([parser.prog, *rest], known_only=True)[1:]
    except (UsageError, TypeError, ValueError, flags.Error) as error:
        fail(error)
    if rest and not rest[0].startswith("-"):
        fail(f"unexpected {' '.join(rest)}; options look like --config.optimizer.lr=0.001")
    if rest:
        parser.refuse(rest)
    return ConfigArguments(options, typed, default)


def start_logging() -> None:
    """Sends library warnings to stderr, and the stacks of all threads if the process crashes.

    Also ignores the switches of `jax_switches`.
    """
    ignore_switches()
    logging.use_absl_handler()
    logging.set_verbosity(logging.WARNING)
    with contextlib.suppress(RuntimeError, ValueError, OSError):  # a closed or replaced stderr
        faulthandler.enable()


def _is_unknown(argument: str) -> bool:
    """Whether an argument is surely wrong: neither an override nor an option of absl.

    Packages that are not imported yet may define options of absl, whose names have underscores.
    """
    if not re.match("--.", argument) or is_override(argument):  # a value may begin with one dash
        return False
    name = argument.removeprefix("--").partition("=")[0]
    return "_" not in name and not {name, name.removeprefix("no")} & set(flags.FLAGS)


def _refuse_overrides(argv: Sequence[str]) -> None:
    """Exits with an error if there are overrides, but no config."""
    found = next((x for x in argv if x.lstrip("-").startswith("config.")), None)
    if found:
        fail(f"{shorten(found)} needs --config=NAME_OR_FILE, the config that it changes")
