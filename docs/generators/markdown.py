"""Pieces of Markdown."""

import re
from collections.abc import Iterable, Sequence


def cell(text: object) -> str:
    """A text as a cell of a table: one line, and no end of the cell in it."""
    return " ".join(str(text).split()).replace("|", "\\|")


def plain(text: str) -> str:
    """A text without marks, but for code in backticks."""
    parts = text.split("`")
    parts[::2] = (re.sub(r"([*_<\[$\\])", r"\\\1", part) for part in parts[::2])
    return "`".join(parts)


def code(text: object) -> str:
    """A text as code; "" stays empty."""
    plain = " ".join(str(text).split())
    fence = "``" if "`" in plain else "`"
    return f"{fence}{plain}{fence}" if plain else ""


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; cells are Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines)


def toctree(entries: Iterable[str], *options: str) -> str:
    """A list of pages below this one."""
    return "\n".join(["```{toctree}", *options, *entries, "```"])
