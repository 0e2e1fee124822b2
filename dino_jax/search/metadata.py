"""What is known of the photographs besides their pixels: columns by name, from a CSV or Parquet."""

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from dino_jax.config.section import suggest
from dino_jax.embedding.shards import import_pyarrow
from dino_jax.foreign.files import MAX_TEXT_BYTES, open_regular, read_text
from dino_jax.foreign.json_text import parse_json
from dino_jax.foreign.names import one_line, printable

Value = str | int | float | bool | None
Table = dict[str, dict[str, Value]]  # columns by name of the photograph


def read_table(path: str | os.PathLike, key: str) -> Table:
    """Reads a table that others made.

    Args:
      path: a CSV in UTF-8 whose first line names the columns, or a .parquet.
      key: column with the names of the photographs, as the index has them.

    Raises:
      ValueError: if it is no such table, has no such column, or names a photograph twice.
      OSError: if it cannot be read.
    """
    place = os.fspath(path)
    lines = _read_parquet(place) if place.endswith(".parquet") else _read_csv(place)
    table: Table = {}
    for number, line in lines:
        if key not in line:
            raise ValueError(f"{place} has no column --key={key}; {suggest(key, line)}")
        name = printable(str(line[key] if line[key] is not None else ""))
        if name in table:
            raise ValueError(f"{place}: row {number} has the {key} {name!r} of an earlier row")
        table[name] = {column: value for column, value in line.items() if column != key}
    if not table:
        raise ValueError(f"{place} has no rows")
    return table


def write_lines(table: Mapping[str, Mapping[str, Value]]) -> Iterable[str]:
    """The table as lines of JSON, as an index keeps it."""
    lines = ({"name": name, "values": values} for name, values in table.items())
    return (json.dumps(line) + "\n" for line in lines)


def read_lines(text: str) -> Table:
    """The table of `write_lines`; raises ValueErrors and others for anything else."""
    found = (parse_json(line) for line in text.splitlines())
    return {line["name"]: dict(line["values"]) for line in found}


def number_of(value: Value) -> float | None:
    """The number that a value is or spells; None for others."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _read_csv(place: str) -> Iterable[tuple[int, dict[str, Any]]]:
    text = read_text(place, MAX_TEXT_BYTES).removeprefix("\ufeff")
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for line in reader:
            if None in line or None in line.values():
                raise ValueError(
                    f"{place}: line {reader.line_num} has another number of columns than the first"
                )
            yield reader.line_num, {one_line(name): value for name, value in line.items()}
    except csv.Error as error:
        raise ValueError(f"{place}: line {reader.line_num}: {error}") from error


def _read_parquet(place: str) -> Iterable[tuple[int, dict[str, Any]]]:
    arrow, parquet = import_pyarrow()
    try:
        with open_regular(place) as file:
            rows = parquet.read_table(file).to_pylist()
    except arrow.ArrowException as error:
        raise ValueError(f"{place} can't be read as Parquet: {error}") from error
    for number, row in enumerate(rows, start=1):
        yield number, {one_line(name): _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Value:
    """What JSON has; dates and others become texts."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    return str(value)
