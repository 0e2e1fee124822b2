"""Files of one strict JSON object per line, each with a "step": one history over all restarts."""

import json
from collections.abc import Mapping
from typing import Any

from absl import logging
from etils import epath

from dino_jax.workdir.paths import is_remote, write_atomically
from dino_jax.workdir.pieces import Pieces, read_pieces


class JsonLines:
    """Appends records to a file; on disk when `append` returns. Only process 0 writes."""

    def __init__(self, path: epath.Path, start_step: int):
        """Opens the file of a run that continues after `start_step` finished updates.

        Lines of later steps, which this run will write again, and lines torn by a crash are
        dropped. With `start_step` 0 all lines are dropped: the run begins again.
        """
        import jax  # only here: the report reads a history without jax

        self._path = path
        self._writes = jax.process_index() == 0
        if self._writes:
            kept = read_json_lines(path, start_step)
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
        with self._path.open("a") as file:
            file.write(line)

    def close(self) -> None:
        """Makes one file of what was written; more lines may follow."""
        if self._writes and self._pieces is not None:
            self._pieces.join()


def read_json_lines(path: epath.Path, last_step: int) -> list[dict[str, Any]]:
    """The history up to `last_step`, on every process; logs the lines that cannot be read.

    With `last_step` 0 it is empty: lines found by a run that begins again are not its own.
    """
    if last_step == 0 or not path.exists():
        return []
    records, unreadable = read_history(path)
    if unreadable:
        logging.warning("%s: dropped the torn lines %s", path, unreadable)
    return [record for record in records if record["step"] <= last_step]


def read_history(path: epath.Path) -> tuple[list[dict[str, Any]], list[int]]:
    """One history without duplicates, from a file that may still grow.

    A resumed run does the steps after its checkpoint again: a line of an earlier step than the one
    before it undoes all lines of later steps. Lines of the same step are all kept.

    Returns:
      The records, which have a whole "step" >= 0, ascending; and the numbers of the other lines,
      which a crash has torn. Empty lines are ignored.
    """
    records: list[dict[str, Any]] = []
    unreadable = []
    for number, line in enumerate(read_pieces(path).decode(errors="replace").splitlines(), start=1):
        record = _parse(line)
        if record is not None:
            while records and records[-1]["step"] > record["step"]:
                records.pop()
            records.append(record)
        elif line.strip():
            unreadable.append(number)
    return records, unreadable


def _parse(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    step = record.get("step") if isinstance(record, dict) else None
    whole = isinstance(step, int) and not isinstance(step, bool) and step >= 0
    return record if whole else None
