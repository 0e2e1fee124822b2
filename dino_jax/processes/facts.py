"""What processes say about their start, and in what they differ."""

import json
from collections.abc import Mapping
from typing import Any

MAX_LINES = 10  # differences that are shown
MAX_NAMES = 3  # processes that are named for a value
ERROR = "error"  # the fact of a process that cannot start: why

Facts = Mapping[str, Any]  # by name, the most telling ones first; values as JSON holds them


def describe_differences(facts: Mapping[int, Facts], hosts: Mapping[int, str]) -> str:
    """A line for each fact in which processes differ, with every value and who has it; "" for none.

    Args:
      facts: facts by process.
      hosts: name of its host by process.
    """
    names = dict.fromkeys(name for known in facts.values() for name in known)
    lines = []
    for name in names:
        holders: dict[str, list[int]] = {}
        for process in sorted(facts):
            known = facts[process]
            value = _show(known[name]) if name in known else "nothing"
            holders.setdefault(value, []).append(process)
        if len(holders) > 1:
            values = (f"{_name(who, hosts)} has {value}" for value, who in holders.items())
            lines.append(f"  {name}: {', '.join(values)}")
    hidden = len(lines) - MAX_LINES
    return "\n".join(lines[:MAX_LINES] + ([f"  … and {hidden} more"] if hidden > 0 else []))


def require_alike(facts: Mapping[int, Facts], hosts: Mapping[int, str], what: str) -> None:
    """Checks that all processes say the same.

    Args:
      facts: facts by process.
      hosts: name of its host by process.
      what: what they must have in common, and how to mend it.

    Raises:
      ValueError: if one has an error, or they do not; it lists all errors, or all differences.
    """
    errors: dict[str, list[int]] = {}
    for process in sorted(facts):
        if ERROR in facts[process]:
            errors.setdefault(str(facts[process][ERROR]), []).append(process)
    if errors:
        who = (f"{_name(holders, hosts)} cannot start: {text}" for text, holders in errors.items())
        raise ValueError("\n".join(who))
    if differences := describe_differences(facts, hosts):
        raise ValueError(f"the {len(facts)} processes of this run differ:\n{differences}\n{what}")


def _show(value: Any) -> str:
    """The same text for what is the same after a journey as JSON, such as a tuple and a list."""
    return json.dumps(value, ensure_ascii=False)


def _name(processes: list[int], hosts: Mapping[int, str]) -> str:
    shown = ", ".join(f"{i} on {hosts[i]}" for i in processes[:MAX_NAMES])
    more = f" and {len(processes) - MAX_NAMES} more" if len(processes) > MAX_NAMES else ""
    return f"process {shown}{more}"
