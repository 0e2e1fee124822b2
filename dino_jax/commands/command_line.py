"""Command lines of the form --config=FILE --config.a.b=value, and errors that a user can mend."""

import re
import runpy
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

WRONG_USAGE = 2  # exit code, as argparse's


class UsageError(Exception):
    """Something in the config, the data or the workdir that the user can mend."""

    exit_code = WRONG_USAGE


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


def parse_flags(
    argv: list[str],
    required: Sequence[str] = ("config", "workdir"),
    example: str = "dino_jax.train --config=configs/quickstart.py --workdir=runs/quickstart",
) -> list[str]:
    """Flags parser for `absl.app.run`: a wrong command line ends with one clear message.

    Args:
      argv: the command line.
      required: flags that must be given.
      example: of a right command, without python -m.
    """
    try:
        # First the file alone: what flags.FLAGS raises afterwards is about the overrides.
        for path in _config_files(argv):
            load_config(path)
        rest = flags.FLAGS(argv)
    except (KeyError, AttributeError) as error:  # ml_collections, for a name that does not exist
        fail(f"the config has no {_innermost(error)}")
    except (UsageError, TypeError, ValueError, flags.Error) as error:
        fail(error)
    missing = [f"--{name}" for name in required if not flags.FLAGS[name].value]
    if missing:
        fail(f"missing {' and '.join(missing)}; a command looks like python -m {example}")
    if rest[1:]:
        fail(f"unexpected {' '.join(rest[1:])}; options look like --config.optimizer.lr=0.001")
    return rest


def default_config(flag: str) -> ConfigDict:
    """The config of a parsed flag as its file makes it, without overrides.

    Raises:
      UsageError: as `load_config`.
    """
    return load_config(config_flags.get_config_filename(flags.FLAGS[flag]))


def check_runtime(runtime: Any) -> None:
    """Checks the numbers of `config.runtime`, before a run writes anything.

    Raises:
      ValueError: if one is out of range.
    """
    for name in ("log_every_steps", "save_every_steps", "keep_checkpoints"):
        if runtime[name] < 1:
            raise ValueError(f"runtime.{name} must be at least 1, got {runtime[name]}")
    for name in ("workers", "threads", "save_every_minutes"):
        if runtime[name] < 0:
            raise ValueError(f"runtime.{name} must be at least 0, got {runtime[name]}")


def load_config(path: str) -> ConfigDict:
    """Runs `get_config` of a config file.

    Raises:
      UsageError: if there is no such file, no config comes out of it, or it raises; then with the
        traceback from the file on.
    """
    if not Path(path).is_file():
        raise UsageError(f"config file {path!r} does not exist (current folder: {Path.cwd()})")
    try:
        get_config = runpy.run_path(path).get("get_config")
        config = get_config() if get_config else None
    except Exception as error:
        raise UsageError(
            f"config file {path!r} raises an error:\n{_format_from(path, error)}"
        ) from error
    if not isinstance(config, ConfigDict):
        raise UsageError(f"config file {path!r} needs a get_config() that returns a ConfigDict")
    return config


def _config_files(argv: list[str]) -> list[str]:
    """The values of --config=FILE or --config FILE."""
    values = []
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        match = re.fullmatch(r"--?config(?:=(.*))?", argument)
        if match:
            values.append(following if match[1] is None else match[1])
    return [value for value in values if value]


def _format_from(path: str, error: Exception) -> str:
    """The traceback without the frames above those of file `path`."""
    report = traceback.TracebackException.from_exception(error)
    inside = [index for index, frame in enumerate(report.stack) if frame.filename == path]
    report.stack = traceback.StackSummary.from_list(report.stack[inside[0] :] if inside else [])
    return "".join(report.format(chain=False)).rstrip()


def _innermost(error: BaseException) -> str:
    """One line: the message of an error that may wrap another one as its argument."""
    while error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    return str(error.args[0] if error.args else error).replace("\n", ". ")
