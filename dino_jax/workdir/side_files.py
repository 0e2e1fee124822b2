"""Files of a workdir that a run can do without: damaged ones are said and set aside.

Everything that a start reads from the workdir passes here, but for `config.json`, the checkpoints
and the lock, which have rules of their own.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from absl import logging
from etils import epath

from dino_jax.foreign.files import is_remote, read_bytes

Value = TypeVar("Value")
MOST_BYTES = 1 << 30  # of a file that is read


class DamagedFileError(ValueError):
    """The content of a file is not what this program writes."""


# What reading and parsing a damaged file may raise. MemoryError: of numbers that lie.
DAMAGE = (
    OSError,
    ValueError,  # of JSON and UTF-8, too
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    RecursionError,
    MemoryError,
)


def read_side_file(
    path: epath.Path, parse: Callable[[str], Value], missing: Value, *, so: str
) -> Value:
    """Reads a file, on every process; one that is damaged is set aside under another name.

    Args:
      path: of the file.
      parse: makes a value of its text; any ordinary error means that the file is damaged.
      missing: value if there is no such file, or a damaged one.
      so: what a damaged file means for the run, the end of a sentence.
    """
    try:
        return parse_side_file(path, parse)
    except FileNotFoundError:
        return missing
    except DAMAGE as error:
        set_aside(path, error, so)
        return missing


def parse_side_file(path: epath.Path, parse: Callable[[str], Value]) -> Value:
    """Reads a file and leaves it where it is, whatever it holds.

    Raises:
      FileNotFoundError: if there is none.
      Exception: one of `DAMAGE`, if it is damaged.
    """
    require_regular(path)
    return parse(read_bytes(path, MOST_BYTES).decode())


def require_regular(path: epath.Path) -> None:
    """Checks that a path leads to a file, and not to a folder, a pipe or nowhere.

    Raises:
      FileNotFoundError: if there is nothing.
      DamagedFileError: if there is something else.
    """
    if path.is_file() if is_remote(path) else Path(path).is_file():
        return
    if not path.exists() if is_remote(path) else not os.path.lexists(path):
        raise FileNotFoundError(path)
    raise DamagedFileError("it is not a regular file")


def set_aside(path: epath.Path, error: Exception, so: str) -> None:
    """Gives a damaged file another name and says so; only process 0 does.

    Raises:
      OSError: `error`, if it is one of a bucket, where a file that cannot be read may be sound.
    """
    if is_remote(path) and isinstance(error, OSError):
        raise error
    import jax  # only here: the report reads a history without jax

    if jax.process_index() != 0:
        return
    target = next_free(path)
    path.rename(target)
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    logging.warning("%s is damaged (%s): moved to %s; %s", path, reason, target.name, so)


def keep_copy(path: epath.Path, content: bytes, reason: str, so: str) -> None:
    """Keeps the content of a file that is about to be replaced; for process 0."""
    target = next_free(path)
    target.write_bytes(content)
    logging.warning("%s is damaged (%s): copied to %s; %s", path, reason, target.name, so)


def next_free(path: epath.Path) -> epath.Path:
    """The first of NAME.damaged, NAME.damaged2 and so on that does not exist."""
    number = 1
    while True:
        target = path.parent / f"{path.name}.damaged{number if number > 1 else ''}"
        if not (target.exists() if is_remote(target) else os.path.lexists(target)):
            return target
        number += 1
