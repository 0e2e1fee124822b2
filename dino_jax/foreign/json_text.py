"""JSON that others wrote: bounded in size, depth and numbers."""

import json
import os
import re
from collections.abc import Callable
from typing import Any

from dino_jax.foreign.files import read_bytes

MAX_DEPTH = 64  # objects and lists inside each other; ours have seven
_LONG_NUMBER = re.compile(r"\d{19}")
_LARGEST = 2**63 - 1


def parse_json(text: str | bytes) -> Any:
    """Parses one JSON value.

    Raises:
      ValueError: if it is not JSON, is nested deeper than `MAX_DEPTH`, or has a whole number beyond
        64 bits.
    """
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text))
    hook: Callable[[str], int] | None = _bounded_int if _LONG_NUMBER.search(text) else None
    try:
        value = json.loads(text, parse_int=hook)
    except RecursionError as error:
        raise ValueError(f"nested deeper than {MAX_DEPTH}") from error
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _require_shallow(value)
    return value


def read_json(path: str | os.PathLike, most: int) -> Any:
    """Parses a file of at most `most` bytes.

    Raises:
      OSError: as `files.read_bytes`.
      ValueError: as `parse_json`.
    """
    return parse_json(read_bytes(path, most))


def _bounded_int(digits: str) -> int:
    if len(digits) > 20 or abs(int(digits)) > _LARGEST:
        raise ValueError("a whole number has more than 64 bits")
    return int(digits)


def _require_shallow(value: Any) -> None:
    """A value from text is a tree, so this ends."""
    level, depth = [value], 0
    while level := [one for one in level if isinstance(one, dict | list)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")
        parts = (one.values() if isinstance(one, dict) else one for one in level)
        level = [one for part in parts for one in part]
