"""Command lines like --config=FILE --config.a.b=value, with errors that a user can act on."""

import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

WRONG_USAGE = 2  # exit code, as argparse's


class UsageError(Exception):
    """Something in the config, the data or the workdir that the user can mend."""


@contextmanager
def mendable() -> Iterator[None]:
    """Marks where a ValueError or OSError speaks about what the user gave."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error


def fail(message: object) -> NoReturn:
    """Ends the program because of a wrong use, without a traceback."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(WRONG_USAGE)


def parse_flags(argv: list[str]) -> list[str]:
    """Flags parser for `absl.app.run`: what the config does not have is one clear line."""
    try:
        rest = flags.FLAGS(argv)
    except KeyError as error:  # ml_collections, for a section that does not exist
        fail(f"the config has no {error.args[0]}")
    except (AttributeError, TypeError, ValueError, OSError, flags.Error) as error:
        fail(error)
    missing = [f"--{name}" for name in ("config", "workdir") if flags.FLAGS[name].value is None]
    if missing:
        fail(
            f"missing {' and '.join(missing)}; a command looks like "
            "python -m dino_jax.train --config=configs/quickstart.py --workdir=runs/quickstart"
        )
    if rest[1:]:
        fail(f"unexpected {' '.join(rest[1:])}; options look like --config.optimizer.lr=0.001")
    return rest


def default_config(flag: str) -> ConfigDict:
    """The config as its file makes it, without overrides.

    Raises:
      OSError: if the file does not exist.
    """
    path = config_flags.get_config_filename(flags.FLAGS[flag])
    return runpy.run_path(path)["get_config"]()
