"""Progress of a command: a bar on a terminal, occasional lines elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

LINE_SECONDS = 10.0  # between lines where the output is not a terminal


class Progress:
    """Shows how many of `total` things are done."""

    def __init__(self, title: str, total: int, unit: str = "images"):
        """Shows none yet.

        Args:
          title: name of the work, one or two words.
          total: number of things.
          unit: name of the things.
        """
        self._title, self._total, self._unit = title, total, unit
        self._begin = self._said = time.monotonic()
        self._bar = _open_bar(title, total) if sys.stderr.isatty() else None

    def show(self, done: int) -> None:
        """Shows how many are done."""
        now = time.monotonic()
        speed = done / max(now - self._begin, 1e-9)
        text = f"{done:,} of {self._total:,} {self._unit}, {speed:,.0f}/s"
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, text=text)
        elif now - self._said >= LINE_SECONDS:
            self._said = now
            print(f"{self._title:11} {text}", flush=True)

    def close(self) -> None:
        """Leaves the bar as it is."""
        if self._bar is not None:
            self._bar.stop()


def show_progress(
    stream: Iterable[dict[str, np.ndarray]], title: str, total: int
) -> Iterator[dict[str, np.ndarray]]:
    """Passes the batches of an evaluation stream on; shows how many of `total` images are done."""
    progress, done = Progress(title, total), 0
    try:
        for batch in stream:
            yield batch
            done += int(np.sum(batch["valid"] | (batch["unreadable"] >= 0)))
            progress.show(done)
    finally:
        progress.close()


def _open_bar(title: str, total: int) -> Any:
    from rich import progress
    from rich.console import Console

    bar = progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TextColumn("{task.fields[text]}"),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    bar.add_task(title, total=total, text="")
    bar.start()
    return bar
