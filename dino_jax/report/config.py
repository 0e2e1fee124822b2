"""The config of a run and the differences of several."""

import json
from collections.abc import Sequence
from typing import Any

from dino_jax.report.history import Run
from dino_jax.report.markup import Markup, element
from dino_jax.workdir.dotted_names import flatten

_ABSENT = object()
MOST_VALUES, LONGEST_VALUE = 5000, 1000  # rows of a table; characters
DASH = "\u2013"


def draw_config(runs: Sequence[Run]) -> Markup | None:
    """A table of the differences, and a collapsible one of everything."""
    flat = [flatten(run.config) if run.config else {} for run in runs]
    if not any(flat):
        return None
    names = sorted({name for values in flat for name in values})[:MOST_VALUES]
    different = [name for name in names if not _all_equal([v.get(name, _ABSENT) for v in flat])]
    parts = []
    if len(runs) > 1 and different:
        lead = f"{len(different)} of {len(names)} values differ."
        parts.append(element("p", lead, class_="lead"))
        parts.append(_table(runs, flat, different))
    elif len(runs) > 1:
        parts.append(element("p", f"All {len(names)} values are the same.", class_="lead"))
    parts.append(
        element(
            "details",
            element("summary", f"All {len(names)} values"),
            _table(runs[:1] if not different else runs, flat, names),
        )
    )
    return element("section", element("h2", "Config"), *parts)


def _table(runs: Sequence[Run], flat: Sequence[dict[str, Any]], names: Sequence[str]) -> Markup:
    head = [element("th", "config.", scope="col")]
    head += [element("th", run.name if len(runs) > 1 else "value", scope="col") for run in runs]
    rows = [
        element(
            "tr",
            element("th", name, scope="row"),
            *(element("td", _show(values.get(name, _ABSENT))) for values in flat[: len(runs)]),
        )
        for name in names
    ]
    table = element(
        "table", element("thead", element("tr", *head)), element("tbody", *rows), class_="code"
    )
    return element("div", table, class_="scroll")


def _show(value: Any) -> str:
    if value is _ABSENT:
        return DASH
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]} …"


def _all_equal(values: Sequence[Any]) -> bool:
    """Equality in which True is not 1."""
    first = values[0]
    return all(x == first and isinstance(x, bool) == isinstance(first, bool) for x in values)
