"""Reads a history of any length as charts need it: some thousand lines of each kind."""

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from dino_jax.workdir.json_lines import parse_line
from dino_jax.workdir.pieces import read_lines

MOST = 4000  # lines with the same number of metrics; a chart has 240 points
# A line as our runs write it: its step can be told without reading the rest.
_WRITTEN = re.compile(rb'\{"step": (\d{1,18})[,}]')


class Thinned(NamedTuple):
    """A part of a history.

    Attributes:
      records: chosen lines, ascending steps.
      torn: numbers of lines that cannot be read, as far as they were tried.
      total: number of all lines of the history.
    """

    records: list[dict[str, Any]]
    torn: list[int]
    total: int


def read_thinned(path: epath.Path, most: int = MOST) -> Thinned:
    """Reads a history as `read_history` does, but no more than `most` lines of a kind, evenly.

    Lines of one kind have the same number of metrics: those of evaluations, which are few, are all
    kept beside many others.

    Args:
      path: file of one JSON object per line, which may still grow.
      most: lines of a kind.
    """
    kept: list[tuple[int, int, int]] = []  # step, number and kind of a line
    torn = []
    for number, line in enumerate(read_lines(path), start=1):
        step = _step(line)
        if step is not None:
            while kept and kept[-1][0] > step:  # a resumed run has done it again
                kept.pop()
            kept.append((step, number, line.count(b'": ')))
        elif line.strip():
            torn.append(number)
    chosen = _choose(((number, kind) for _, number, kind in kept), most)
    records = []
    for number, line in enumerate(read_lines(path), start=1):
        if number in chosen:
            record = parse_line(line)
            torn.append(number) if record is None else records.append(record)
    return Thinned(records, sorted(torn), len(kept))


def _step(line: bytes) -> int | None:
    found = _WRITTEN.match(line)
    if found and line.rstrip().endswith(b"}"):
        return int(found[1])
    record = parse_line(line)
    return None if record is None else record["step"]


def _choose(lines: Iterable[tuple[int, int]], most: int) -> set[int]:
    kinds = defaultdict(list)
    for number, kind in lines:
        kinds[kind].append(number)
    chosen: set[int] = set()
    for numbers in kinds.values():
        count = min(most, len(numbers))
        places = np.linspace(0, len(numbers) - 1, count).round().astype(int)
        chosen.update(numbers[place] for place in places.tolist())
    return chosen
