"""Reads a part of a config into a frozen dataclass, which declares everything about its options.

    @dataclass(frozen=True)
    class AdamwConfig:
        b1: float = option(0.9, "decay of the first moment", at_least=0, below=1)

    adamw = section("config.optimizer.adamw", {"b1": 0.95}, AdamwConfig)

Types are bool, int, float, str, Literal, tuples of these, `X | None`, other sections, tables of
named sections (`named`) and sections whose `kind` picks their dataclass (`kinds`).
"""

import dataclasses
import difflib
import functools
import math
import os
import types
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from dino_jax.config.range import Range, shorten

T = TypeVar("T")
ANY = Range()
NEW_KIND = "CONTRIBUTING.md shows how to add one"
_ABOUT = "dino_jax.config"  # key in the metadata of a dataclass field


class UnknownNameError(ValueError):
    """A config has a name that its section does not know.

    Attributes:
      place: the dotted name.
    """

    def __init__(self, place: str, message: str):
        super().__init__(message)
        self.place = place


@dataclasses.dataclass(frozen=True)
class About:
    """Declaration of an option, besides its type and default.

    Attributes:
      meaning: one line.
      bounds: bounds of its numbers.
      among: the values that it may have, None for any; read when a config is, so that others can be
        added to a table of kinds.
      kinds: the table in which `kind` looks a section's dataclass up, None for other options.
      entry: dataclass of the entries of a table, None for other options.
      is_table: whether the value is a table of named sections.
    """

    meaning: str
    bounds: Range = ANY
    among: Collection[str] | None = None
    kinds: Mapping[str, Any] | None = None
    entry: type | None = None
    is_table: bool = False


def option(
    default: Any,
    meaning: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    among: Collection[str] | None = None,
) -> Any:
    """Declares a value, or a section whose type is a dataclass, with its default and limits."""
    about = About(meaning, Range(at_least, above, at_most, below), among)
    return dataclasses.field(default=default, metadata={_ABOUT: about})


def named(entry: type, default: Mapping[str, Any], meaning: str) -> Any:
    """Declares a table of sections of one type, under names that the config chooses."""
    return dataclasses.field(
        default_factory=lambda: dict(default),
        metadata={_ABOUT: About(meaning, entry=entry, is_table=True)},
    )


def kinds(
    table: Mapping[str, Any],
    meaning: str,
    *,
    default: str | Mapping[str, Any] = "",
    is_table: bool = False,
) -> Any:
    """Declares a section whose `kind` picks its dataclass, or a table of such sections.

    Args:
      table: maps each kind to something with a dataclass `Config`, usually a module. It is read
        when a config is, so that a kind can be added from outside.
      meaning: one line.
      default: kind of the section; of a table, kinds or sections by name.
      is_table: whether the value is a table of named sections.
    """

    def make() -> Any:
        if isinstance(default, str):
            return config_class(table, default)() if default else {}
        return {
            name: config_class(table, kind)() if isinstance(kind, str) else kind
            for name, kind in default.items()
        }

    about = About(meaning, kinds=table, is_table=is_table)
    return dataclasses.field(default_factory=make, metadata={_ABOUT: about})


def config_class(table: Mapping[str, Any], kind: str) -> type:
    """The dataclass of a kind."""
    return table[kind].Config


def section(
    where: str,
    given: Any,
    kind: type[T],
    defaulted: list[str] | None = None,
    default: T | None = None,
) -> T:
    """Reads a section.

    Args:
      where: its dotted name, for messages.
      given: ConfigDict or mapping of names to values, where names that it lacks have their default;
        or a section that was read already.
      kind: dataclass of the section.
      defaulted: gets the dotted name of every option that `given` lacks.
      default: section whose values they have; None: the defaults of the dataclass.

    Raises:
      UnknownNameError: if `given` has a name that the section does not know.
      ValueError: if a value has another type, is out of range or unknown.
    """
    if isinstance(given, kind):
        return given
    require_mapping(where, given)
    known = options(kind)
    for name in given:
        if name not in known:
            raise _unknown_name(where, str(name), known)
    base: Any = kind() if default is None else default
    values = {}
    for name, (hint, about) in known.items():
        place, own = f"{where}.{name}", getattr(base, name)
        if name in given:
            values[name] = _read(place, _get(given, name, place), hint, about, defaulted, own)
        elif defaulted is not None:
            defaulted.append(place)
    return dataclasses.replace(base, **values)


@functools.cache
def options(kind: type) -> dict[str, tuple[Any, About]]:
    """The type and the declaration of every option of a section, by name."""
    hints = get_type_hints(kind)
    return {
        field.name: (hints[field.name], field.metadata.get(_ABOUT, About("")))
        for field in dataclasses.fields(kind)
    }


def entry_class(place: str, name: str, given: Any, about: About) -> type:
    """The dataclass of a section that `kinds` or `named` declares.

    Args:
      place: dotted name of the section.
      name: in its table; a section without a `kind` is of the kind of its name.
      given: the section.
      about: declaration of the section or of its table.

    Raises:
      ValueError: if the kind is unknown or missing, or the section is not a mapping.
    """
    if about.entry is not None:
        return about.entry
    require_mapping(place, given)
    table = about.kinds or {}
    kind = _get(given, "kind", place) if "kind" in given else name
    if not isinstance(kind, str) or kind not in table:
        if "kind" not in given:
            raise ValueError(f"{place} needs a kind; known: {sorted(table)}; {NEW_KIND}")
        known = suggest(str(kind), table)
        raise ValueError(f"{place}.kind is {shorten(kind)}; {known}; {NEW_KIND}")
    return config_class(table, kind)


def require_mapping(place: str, given: Any) -> None:
    """Raises a ValueError if a section is something else."""
    if not hasattr(given, "items"):
        raise ValueError(f"{place} must be a section of options, got {shorten(given)}")


def suggest(name: str, known: Iterable[str]) -> str:
    """ "did you mean 'lr'?" if a known name is close, else the known names."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {known}"


def _unknown_name(where: str, name: str, known: Iterable[str]) -> UnknownNameError:
    message = f"{where} has no {name!r}; {suggest(name, known)}"
    return UnknownNameError(f"{where}.{name}", message)


def _get(given: Any, name: str, place: str) -> Any:
    try:
        return given[name]
    except Exception as error:  # ml_collections raises RequiredValueError for an unset placeholder
        raise ValueError(f"{place} has a value that is not set: {error}") from error


def _read(
    place: str, given: Any, hint: Any, about: About, defaulted: list[str] | None, default: Any
) -> Any:
    """One option of a section."""
    if about.is_table:
        require_mapping(place, given)
        entries = {name: _get(given, name, f"{place}.{name}") for name in given}
        return {
            name: _read_entry(f"{place}.{name}", name, entry, about, defaulted)
            for name, entry in entries.items()
        }
    if about.kinds is not None:
        return _read_entry(place, "", given, about, defaulted)
    if dataclasses.is_dataclass(hint):
        inner: Any = hint
        return section(place, given, inner, defaulted, default)
    value = check_value(place, given, hint, about.bounds)
    if about.among is not None and value not in about.among:
        raise ValueError(f"{place} is {shorten(value)}; {suggest(str(value), about.among)}")
    return value


def _read_entry(
    place: str, name: str, given: Any, about: About, defaulted: list[str] | None
) -> Any:
    kind = entry_class(place, name, given, about)
    read = section(place, given, kind, defaulted)
    if about.kinds is not None and "kind" not in given:
        return dataclasses.replace(read, kind=name)
    return read


def check_value(place: str, given: Any, hint: Any, bounds: Range = ANY) -> Any:
    """The value of an option as its type: an int for a float is one, a list for a tuple too.

    Raises:
      ValueError: if it has another type, is out of bounds, or is not one of a Literal.
    """
    if isinstance(given, np.generic):
        given = given.item()
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        if given is None:
            return None
        (hint,) = (x for x in get_args(hint) if x is not type(None))
        return check_value(place, given, hint, bounds)
    if origin is Literal:
        if given not in get_args(hint):
            choices = [str(choice) for choice in get_args(hint)]
            raise ValueError(f"{place} is {shorten(given)}; {suggest(str(given), choices)}")
        return given
    if origin is tuple:
        return _check_tuple(place, given, get_args(hint), bounds)
    value = _CONVERSIONS[hint](given)
    if value is None:
        raise ValueError(f"{place} must be {describe_type(hint)}, got {shorten(given)}")
    if isinstance(value, int | float) and (wrong := bounds.object_to(value)):
        raise ValueError(f"{place} {wrong}")
    return value


def _check_tuple(place: str, given: Any, hints: tuple[Any, ...], bounds: Range) -> tuple:
    any_length = hints[-1] is Ellipsis
    if not isinstance(given, list | tuple) or not (any_length or len(given) == len(hints)):
        expected = describe_type(tuple[hints])
        raise ValueError(f"{place} must be {expected}, got {shorten(given)}")
    each = [hints[0]] * len(given) if any_length else hints
    return tuple(
        check_value(f"{place}[{i}]", x, hint, bounds)
        for i, (x, hint) in enumerate(zip(given, each, strict=True))
    )


def describe_type(hint: Any) -> str:
    """A type in words."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        (inner,) = (x for x in get_args(hint) if x is not type(None))
        return f"{describe_type(inner)}, or None"
    if origin is Literal:
        return " | ".join(str(choice) for choice in get_args(hint))
    if origin is tuple:
        inner = get_args(hint)
        one = _TYPE_WORDS.get(inner[0], describe_type(inner[0]))
        return f"{one}s in (…,)" if inner[-1] is Ellipsis else f"{len(inner)} {one}s in (…)"
    words = _TYPE_WORDS.get(hint, str(hint))
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


_TYPE_WORDS = {bool: "bool", int: "integer", float: "number", str: "string"}


def _as_float(given: Any) -> float | None:
    if not isinstance(given, int | float) or isinstance(given, bool):
        return None
    try:
        return float(given)
    except OverflowError:  # an integer with hundreds of digits
        return math.inf


def _as_str(given: Any) -> str | None:
    return os.fspath(given) if isinstance(given, str | os.PathLike) else None


# From what a config holds to the type of an option; None: it does not fit.
_CONVERSIONS: dict[Any, Callable[[Any], Any]] = {
    bool: lambda x: x if isinstance(x, bool) else None,
    int: lambda x: x if isinstance(x, int) and not isinstance(x, bool) else None,
    float: _as_float,
    str: _as_str,
}
