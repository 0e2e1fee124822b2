"""Arguments of the form --config.a.b=value: other values for the options of a config."""

import ast
import re
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from dino_jax.commands.command_line import BOOLS
from dino_jax.config.range import shorten
from dino_jax.config.section import describe_type, suggest
from dino_jax.config.upgrade import rename_hint

# --config.a=value, --config.a value; of switches also --config.a and --noconfig.a.
_ARGUMENT = re.compile(
    r"--?(?P<no>no)?(?P<place>config\.[^=]*)(?P<given>=(?P<text>.*))?", re.DOTALL
)


def apply_overrides(config: ConfigDict, argv: Sequence[str]) -> list[str]:
    """Changes the config; of an option that is given twice the last value holds.

    Args:
      config: every option must be in it.
      argv: arguments of a command line.

    Returns:
      The other arguments.

    Raises:
      ValueError: if there is no such option, or its value cannot be of its type.
    """
    others, rest = [], list(argv)
    while rest:
        match = _ARGUMENT.fullmatch(rest[0])
        argument = rest.pop(0)
        if not match:
            others.append(argument)
            continue
        place, text = match["place"], match["text"]
        section, name = find_option(config, place)
        kind = section.get_type(name)
        if kind is bool and not match["given"]:
            text = "false" if match["no"] else "true"
        elif not match["given"]:
            if not rest or rest[0].startswith("--"):
                raise ValueError(f"{place} needs a value: --{place}=VALUE")
            text = rest.pop(0)
        section[name] = parse_value(place, text, kind)
    return others


def is_override(argument: str) -> bool:
    """Whether an argument has the form of an override."""
    return bool(_ARGUMENT.fullmatch(argument))


def find_option(config: ConfigDict, place: str) -> tuple[ConfigDict, str]:
    """The section of an option, and its name there.

    Args:
      config: the whole config.
      place: "config.optimizer.lr".

    Raises:
      ValueError: if there is no such option; the message suggests another one.
    """
    where, *names = place.split(".")
    section: Any = config
    for number, name in enumerate(names, 1):
        if name not in section:
            hint = rename_hint(place) or f"{where} has no {name!r}; {suggest(name, section)}"
            raise ValueError(hint)
        value, where = section[name], f"{where}.{name}"
        is_last, is_section = number == len(names), isinstance(value, ConfigDict)
        if is_last and is_section:
            raise ValueError(
                f"{where} is a section: override its options, such as --{where}."
                f"{next(iter(value), 'NAME')}=VALUE"
            )
        if is_last:
            return section, name
        if not is_section:
            raise ValueError(f"{where} is an option, not a section; use --{where}=VALUE")
        section = value
    raise ValueError(f"{place} names no option")


def parse_value(place: str, text: str, kind: type) -> Any:
    """The value in the type that an option has; None is one of every type but str.

    Raises:
      ValueError: if the text is something else.
    """
    if kind is str:
        return text
    if text == "None":
        return None
    try:
        if kind is bool:
            return BOOLS[text.lower()]
        return _parse_tuple(text) if kind is tuple else kind(text)
    except (KeyError, ValueError):
        expected = describe_type(kind)
        raise ValueError(f"{place} must be {expected}, got {shorten(text)}") from None


def _parse_tuple(text: str) -> tuple[Any, ...]:
    """(16, 16) and [16, 16] as they are; anything else alone in a tuple."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = text
    return tuple(value) if isinstance(value, list | tuple) else (value,)
