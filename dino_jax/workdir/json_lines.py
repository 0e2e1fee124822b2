"""Files of one strict JSON object per line, each with a "step": one history over all restarts."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from etils import epath

from dino_jax.foreign.json_text import parse_json
from dino_jax.workdir.paths import is_remote, write_atomically
from dino_jax.workdir.pieces import Pieces, read_pieces
from dino_jax.workdir.side_files import DAMAGE, keep_copy, require_regular, set_aside

Valid = Callable[[Mapping[str, Any]], bool]  # whether a record is one that this program writes


def anything(record: Mapping[str, Any]) -> bool:
    """Accepts every record."""
    del record
    return True


class JsonLines:
    """Appends records to a file; on disk when `append` returns. Only process 0 writes."""

    def __init__(self, path: epath.Path, start_step: int, valid: Valid = anything):
        """Opens the file of a run that continues after `start_step` finished updates.

        Lines of later steps, which this run will write again, and a line torn by a crash are
        dropped. If others would be lost, too, the file is kept under another name, and that is
        said. With `start_step` 0 all lines are dropped: the run begins again.

        Args:
          path: of the file.
          start_step: finished updates.
          valid: tells damaged records from others.
        """
        import jax  # only here: the report reads a history without jax

        self._path = path
        self._writes = jax.process_index() == 0
        if self._writes:
            kept = _recover(path, start_step, valid)
            text = "".join(json.dumps(record) + "\n" for record in kept)
            self._pieces = Pieces(path, text.encode()) if is_remote(path) else None
            if self._pieces is None:
                write_atomically(path, text)

    def append(self, record: Mapping[str, Any]) -> None:
        """Writes one line.

        Args:
          record: an object with "step"; its numbers must be finite.
        """
        if not self._writes:
            return
        line = json.dumps(record, allow_nan=False) + "\n"
        if self._pieces is not None:  # gs:// has no append
            self._pieces.append(line.encode())
            return
        with Path(self._path).open("r+") as file:  # "a" would begin a new file if it was deleted
            file.seek(0, os.SEEK_END)
            file.write(line)

    def close(self) -> None:
        """Makes one file of what was written; more lines may follow."""
        if self._writes and self._pieces is not None:
            self._pieces.join()


def read_json_lines(
    path: epath.Path, last_step: int, valid: Valid = anything
) -> list[dict[str, Any]]:
    """The history up to `last_step`, on every process, without lines that cannot be read.

    With `last_step` 0 it is empty: lines found by a run that begins again are not its own.
    """
    if last_step == 0:
        return []
    try:
        require_regular(path)
        records, _ = read_history(path, valid)
    except DAMAGE:
        return []
    return [record for record in records if record["step"] <= last_step]


def read_history(
    path: epath.Path, valid: Valid = anything
) -> tuple[list[dict[str, Any]], list[int]]:
    """One history without duplicates, from a file that may still grow.

    A resumed run does the steps after its checkpoint again: a line of an earlier step than the one
    before it undoes all lines of later steps. Lines of the same step are all kept.

    Returns:
      The records, which have a whole "step" >= 0, ascending; and the numbers of the other lines,
      which a crash has torn. Empty lines are ignored.

    Raises:
      OSError: as `read_pieces`.
    """
    return _join(_parse_lines(read_pieces(path), valid))


def _join(
    lines: Iterable[tuple[int, dict[str, Any] | None]],
) -> tuple[list[dict[str, Any]], list[int]]:
    """See `read_history`."""
    records: list[dict[str, Any]] = []
    unreadable = []
    for number, record in lines:
        if record is None:
            unreadable.append(number)
            continue
        while records and records[-1]["step"] > record["step"]:
            records.pop()
        records.append(record)
    return records, unreadable


def _recover(path: epath.Path, start_step: int, valid: Valid) -> list[dict[str, Any]]:
    """The lines up to a step; the file is kept if more is lost than a crash explains."""
    try:
        require_regular(path)
        if start_step == 0:
            return []
        content = read_pieces(path)
        lines = dict(_parse_lines(content, valid))
        records, _ = _join(lines.items())
    except FileNotFoundError:
        return []
    except DAMAGE as error:
        set_aside(path, error, f"its {start_step} steps are not in the history of this run")
        return []
    kept = [record for record in records if record["step"] <= start_step]
    if not content.endswith(b"\n"):  # torn by a crash
        lines = {n: record for n, record in lines.items() if record or n <= content.count(b"\n")}
    damaged = [number for number, record in lines.items() if record is None]
    known = [record for record in lines.values() if record and record["step"] <= start_step]
    if damaged:
        keep_copy(path, content, f"line {damaged[0]}", f"{len(damaged)} lines are left out")
    elif len(known) > len(kept):
        lost = len(known) - len(kept)
        keep_copy(path, content, "steps do not ascend", f"{lost} lines are left out")
    return kept


def _parse_lines(text: bytes, valid: Valid) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Numbers of all lines that are not empty, with their records; None for damaged ones."""
    for number, line in enumerate(text.split(b"\n"), start=1):
        if line.strip():
            record = parse_line(line.decode()) if line.isascii() else None
            yield number, record if record is not None and valid(record) else None


def parse_line(line: str | bytes) -> dict[str, Any] | None:
    """The record of a line, which has a whole "step" >= 0; None if it is none."""
    try:
        record = parse_json(line)
    except ValueError:
        return None
    step = record.get("step") if isinstance(record, dict) else None
    whole = isinstance(step, int) and not isinstance(step, bool) and step >= 0
    return record if whole else None
