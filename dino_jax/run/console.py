"""What a terminal shows of a run: the newest log lines as a table, and a bar."""

import collections
from collections.abc import Mapping
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

ROWS = 12  # newest log lines that stay in the table


class LiveTable:
    """A table that is drawn anew in its place; what is printed goes above it."""

    def __init__(self, stream: TextIO, start_step: int, total_steps: int):
        """Shows the bar.

        Args:
          stream: a terminal.
          start_step: finished updates at the start of this process.
          total_steps: updates of the whole run.
        """
        self._console = Console(file=stream, highlight=False)
        self._step, self._total = start_step, total_steps
        self._rows: collections.deque[Mapping[str, str]] = collections.deque(maxlen=ROWS)
        self._live = Live(get_renderable=self._draw, console=self._console, refresh_per_second=4)
        self._live.start()

    def advance(self, step: int) -> None:
        """Moves the bar; the screen follows a little later."""
        self._step = step

    def add(self, row: Mapping[str, str]) -> None:
        """Adds a row, column to text; columns may differ from row to row."""
        self._rows.append(row)
        self._live.refresh()

    def print(self, text: str) -> None:
        """Prints a line above the table."""
        self._console.print(text, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Leaves the table as it is on the screen."""
        self._live.stop()

    def _draw(self) -> Group:
        share = self._step / self._total
        bar = Table.grid(padding=(0, 1), expand=True)
        bar.add_column(ratio=1)
        bar.add_column(justify="right")
        done = Text(f"{self._step:,}/{self._total:,}  {100 * share:.0f} %")
        bar.add_row(ProgressBar(total=self._total, completed=self._step), done)
        return Group(self._table(), bar) if self._rows else Group(bar)

    def _table(self) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        columns = list(dict.fromkeys(name for row in self._rows for name in row))
        for name in columns:
            table.add_column(Text(name), justify="right", no_wrap=True)
        for row in self._rows:
            table.add_row(*(Text(row.get(name, "")) for name in columns))
        return table
