"""A mistake in the command line of one process of several ends all of them."""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dino_jax.commands.command_line import WrongUsageExit


@contextmanager
def told_to_all(argv: Sequence[str] | None) -> Iterator[None]:
    """Around the parsing of a command line: with --distributed, the other processes hear of errors.

    A config file that is missing on one host, or damaged, would else leave the others waiting.

    Args:
      argv: None: that of the process.
    """
    try:
        yield
    except WrongUsageExit as end:
        if _distributed(argv):
            from dino_jax.processes.join import tell_of_error  # imports jax

            tell_of_error(end.message)
        raise


def _distributed(argv: Sequence[str] | None) -> bool:
    """What --distributed says, in a command line that is wrong elsewhere."""
    given = sys.argv[1:] if argv is None else argv
    return any(re.fullmatch(r"--?distributed(=true|=1)?", x, re.IGNORECASE) for x in given)
