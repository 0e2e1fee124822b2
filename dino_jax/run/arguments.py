"""The command line of commands that take a whole config; jax comes with what its options are."""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from dino_jax.commands.command_line import CommandParser
from dino_jax.commands.config_command import EXAMPLE, ConfigArguments, parse_with_config


def parse_run(
    parser: CommandParser,
    argv: Sequence[str] | None,
    needs: Sequence[str] = ("config", "workdir"),
    example: str = EXAMPLE,
) -> ConfigArguments:
    """Parses a command line, see `parse_with_config`; without a config nothing imports jax."""
    return parse_with_config(parser, argv, needs, example, complete=_complete, read=_read)


def _complete(given: Any) -> ConfigDict:
    from dino_jax.run.whole_config import complete_config  # jax

    return complete_config(given)


def _read(given: Any) -> Any:
    from dino_jax.run.whole_config import read_config  # jax

    return read_config(given)
