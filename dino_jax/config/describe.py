"""A config as readable lines: every option with its value and meaning."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from dino_jax.config.section import options

COMMENT_COLUMN = 48


def describe_config(config: Any, base: Any, where: str = "config") -> list[str]:
    """One line per option, "* config.optimizer.lr = 0.001   # meaning; base: 0.0005".

    Args:
      config: a typed section, such as the whole config.
      base: another one of the same kind; options that differ from it have a star.
      where: dotted name of the section.
    """
    theirs = {place: value for place, value, _ in walk(base, where)}
    lines = []
    for place, value, meaning in walk(config, where):
        differs = place not in theirs or theirs[place] != value
        line = f"{'*' if differs else ' '} {place} = {value!r}"
        said = [meaning] if meaning else []
        if differs:
            said.append(f"base: {theirs[place]!r}" if place in theirs else "not in the base")
        lines.append(f"{line:<{COMMENT_COLUMN}}  # {'; '.join(said)}" if said else line)
    return lines


def walk(config: Any, where: str) -> Iterator[tuple[str, Any, str]]:
    """(dotted name, value, meaning) of every option of a section and the sections in it."""
    for name, (_, about) in options(type(config)).items():
        value, place = getattr(config, name), f"{where}.{name}"
        if about.is_table:
            for key, entry in value.items():
                yield from walk(entry, f"{place}.{key}")
        elif dataclasses.is_dataclass(value):
            yield from walk(value, place)
        else:
            yield place, value, about.meaning
