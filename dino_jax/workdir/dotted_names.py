"""Nested sections as one flat table of dotted names."""

from typing import Any


def flatten(value: Any, name: str = "") -> dict[str, Any]:
    """Maps the dotted name of each entry to its value; lists and empty sections are entries.

    Args:
      value: nested dicts.
      name: name of `value` itself, in front of all names; "" for none.
    """
    if not isinstance(value, dict) or not value:
        return {name: value}
    inside = f"{name}." if name else ""
    return {k: v for key in value for k, v in flatten(value[key], f"{inside}{key}").items()}
