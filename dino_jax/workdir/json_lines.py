"""Files of one strict JSON object per line, each with a "step": one history over all restarts."""

import json
from collections.abc import Mapping
from typing import Any

import jax
from absl import logging
from etils import epath

from dino_jax.workdir.paths import is_remote, write_atomically


class JsonLines:
    """Appends records to a file; on disk when `append` returns. Only process 0 writes."""

    def __init__(self, path: epath.Path, start_step: int):
        """Opens the file of a run that continues after `start_step` finished updates.

        Lines of later steps, which this run will write again, and lines torn by a crash are
        dropped. With `start_step` 0 that is everything: the run begins again.
        """
        self._path = path
        self._writes = jax.process_index() == 0
        if self._writes:
            self._text = "".join(line for line, _ in _read(path, start_step))
            write_atomically(path, self._text)

    def append(self, record: Mapping[str, Any]) -> None:
        """Writes one line.

        Args:
          record: with "step"; numbers must be finite.
        """
        if not self._writes:
            return
        line = json.dumps(record, allow_nan=False) + "\n"
        if is_remote(self._path):  # gs:// has no append: write the object again
            self._text += line
            self._path.write_text(self._text)
            return
        with self._path.open("a") as file:
            file.write(line)


def read_json_lines(path: epath.Path, last_step: int) -> list[dict[str, Any]]:
    """The records up to `last_step`, on every process; logs the lines that cannot be read.

    With `last_step` 0 there are none: what a run that begins again finds is not its own.
    """
    return [record for _, record in _read(path, last_step)]


def _read(path: epath.Path, last_step: int) -> list[tuple[str, dict[str, Any]]]:
    """(line, record) up to `last_step` > 0."""
    if last_step == 0 or not path.exists():
        return []
    kept, unreadable = [], []
    for number, line in enumerate(path.read_bytes().decode(errors="replace").splitlines(), start=1):
        try:
            record = json.loads(line)
            if record["step"] <= last_step:
                kept.append((line + "\n", record))
        except (ValueError, TypeError, KeyError):
            unreadable.append(number)
    if unreadable:
        logging.warning("%s: dropped the torn lines %s", path, unreadable)
    return kept
