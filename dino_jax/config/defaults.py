"""Sections as ConfigDicts: what config files start from and command lines override."""

import dataclasses
import types
from typing import Any, Union, get_args, get_origin

from ml_collections import ConfigDict, FieldReference
from ml_collections.config_dict import placeholder

from dino_jax.config.section import About, check_value, entry_class, options


def to_config_dict(config: Any) -> ConfigDict:
    """A section of typed options as a ConfigDict that takes other values of the same types."""
    entries = {}
    for name, (hint, about) in options(type(config)).items():
        value = getattr(config, name)
        if about.is_table:
            entries[name] = ConfigDict({key: to_config_dict(x) for key, x in value.items()})
        elif dataclasses.is_dataclass(value):
            entries[name] = to_config_dict(value)
        else:
            entries[name] = _settable(value, hint)
    return ConfigDict(entries)


def complete(given: Any, kind: type, where: str = "config", default: Any = None) -> ConfigDict:
    """A config with every name that its sections know, at the default where `given` lacks it.

    Values that do not fit, unknown names and unknown kinds stay as they are: `section` says what is
    wrong with them.

    Args:
      given: ConfigDict or mapping.
      kind: dataclass of the section.
      where: dotted name of the section.
      default: section with the values of missing names; None: the defaults of the dataclass.
    """
    entries: dict[str, Any] = {}
    base = kind() if default is None else default
    references = _references(given)
    for name, (hint, about) in options(kind).items():
        place = f"{where}.{name}"
        if name in references:  # follows another option, also when that one is overridden
            entries[name] = references[name]
        elif name not in given:
            entries[name] = _default(base, name)
        elif about.is_table and hasattr(given[name], "items"):
            table = given[name]
            entries[name] = ConfigDict(
                {key: _complete_entry(table[key], f"{place}.{key}", key, about) for key in table}
            )
        elif about.kinds is not None:
            entries[name] = _complete_entry(given[name], place, "", about)
        elif dataclasses.is_dataclass(hint):
            inner: Any = hint
            is_section = hasattr(given[name], "items")
            own = getattr(base, name)
            entries[name] = complete(given[name], inner, place, own) if is_section else given[name]
        else:
            entries[name] = _coerce(given[name], hint, place)
    unknown = {name: given[name] for name in given if name not in entries}
    return ConfigDict(entries | unknown)


def _references(given: Any) -> dict[str, FieldReference]:
    """Options of a ConfigDict that refer to others, or are placeholders."""
    if not isinstance(given, ConfigDict):
        return {}
    items = given.items(preserve_field_references=True)
    return {name: value for name, value in items if isinstance(value, FieldReference)}


def _default(base: Any, name: str) -> Any:
    value = getattr(base, name)
    hint, about = options(type(base))[name]
    if about.is_table:
        return ConfigDict({key: to_config_dict(x) for key, x in value.items()})
    return to_config_dict(value) if dataclasses.is_dataclass(value) else _settable(value, hint)


def _complete_entry(given: Any, place: str, name: str, about: About) -> Any:
    try:
        kind = entry_class(place, name, given, about)
    except ValueError:
        return given
    completed = complete(given, kind, place)
    if about.kinds is not None and "kind" not in given:
        completed.kind = name
    return completed


def _coerce(given: Any, hint: Any, place: str) -> Any:
    """A valid value as its declared type, so that overrides of that type fit."""
    try:
        return _settable(check_value(place, given, hint), hint)
    except ValueError:
        return given


def _settable(value: Any, hint: Any) -> Any:
    """None as a placeholder of the type that may take its place."""
    if value is not None or get_origin(hint) not in (Union, types.UnionType):
        return value
    (inner,) = (x for x in get_args(hint) if x is not type(None))
    return placeholder(get_origin(inner) or inner)
