"""Other values for options of a typed section."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def change(config: T, changes: Mapping[str, Any]) -> T:
    """A section with other values.

    Args:
      config: typed section, such as the whole config.
      changes: values by dotted name below the section, {"optimizer.lr": 0.1}.

    Raises:
      KeyError: if there is no such name.
    """
    for name, value in changes.items():
        config = _replace(config, name.split("."), value)
    return config


def _replace(config: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    name, *rest = path
    if isinstance(config, dict):
        return config | {name: _replace(config[name], rest, value)}
    if name not in {field.name for field in dataclasses.fields(config)}:
        raise KeyError(f"{type(config).__name__} has no {name!r}")
    return dataclasses.replace(config, **{name: _replace(getattr(config, name), rest, value)})
