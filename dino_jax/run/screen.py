"""The screen of a run: a line per log interval; on a terminal, a table and a bar."""

import collections
import dataclasses
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

import jax
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dino_jax.foreign.names import for_terminal

SHOWN_PAUSE = 0.5  # seconds; shorter pauses are left out of the line
ROWS = 12  # newest log lines that stay in the table


@dataclasses.dataclass(frozen=True)
class Lap:
    """Times since the previous log line.

    Attributes:
      seconds: Time of training, without the pauses.
      images_per_second: Speed while training, None before it can be measured.
      seconds_left: Expected rest of the run with its pauses, None before it can be measured.
      pauses: Seconds spent in each kind of pause.
    """

    seconds: float
    images_per_second: float | None
    seconds_left: float | None
    pauses: dict[str, float]


class Stopwatch:
    """Measures speed and the time left.

    The first step of a process compiles: it counts as a pause called "first step". The time left
    includes later pauses at the rate at which they occurred.
    """

    def __init__(
        self,
        start_step: int,
        total_steps: int,
        images_per_step: int,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Starts the clock; the arguments are those of `Progress`."""
        self._total_steps = total_steps
        self._images_per_step = images_per_step
        self._clock = clock
        self._created = clock()
        self._last_step = start_step
        self._first: tuple[int, float] | None = None  # (step, time) of the first finished step
        self._lap: tuple[int, float] | None = None  # (step, time) of the last lap
        self._pauses: dict[str, float] = {}

    def advance(self, step: int) -> None:
        """Notes that `step` is finished."""
        self._last_step = step
        if self._first is None:
            now = self._clock()
            self._pauses["first step"] = now - self._created - sum(self._pauses.values())
            self._first, self._lap = (step, now), (step, self._created)

    @contextmanager
    def pause(self, reason: str) -> Iterator[None]:
        """Keeps what runs inside out of the speed, and reports it as `reason` in the next lap.

        jax runs ahead: wait for the last step (fetch its metrics) before entering, or its time
        counts as pause.
        """
        start = self._clock()
        try:
            yield
        finally:
            self._pauses[reason] = self._pauses.get(reason, 0.0) + self._clock() - start

    def lap(self) -> Lap:
        """Measures since the last lap; call it when the results of the last step are fetched."""
        now, step, pauses = self._clock(), self._last_step, self._pauses
        speed, left, seconds = None, None, 0.0
        if self._first is not None and self._lap is not None:
            seconds = now - self._lap[1] - sum(pauses.values())
            if step > self._lap[0] and seconds > 0:
                speed = (step - self._lap[0]) * self._images_per_step / seconds
            if step > self._first[0]:
                left = (now - self._first[1]) / (step - self._first[0]) * (self._total_steps - step)
            self._lap = (step, now)
        self._pauses = {}
        return Lap(seconds, speed, left, pauses)


class Progress:
    """The screen of a run: a line per log interval, on a terminal a table; a context manager.

        progress.advance(step)                              after every step
        lap = progress.log(step, {"loss": loss, ...})       every log interval, with fetched numbers
        with progress.pause("evaluation"): ...              around everything that is not training

    Without a terminal there are plain lines only. Processes other than 0 print nothing.
    """

    def __init__(
        self,
        start_step: int,
        total_steps: int,
        images_per_step: int,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Shows the table, if there is one.

        Args:
          start_step: Finished updates at the start of this process.
          total_steps: Updates of the whole run.
          images_per_step: Images of one update over all hosts.
          stream: Where to print; None is the current stdout.
          clock: Seconds, monotonic.
        """
        self._stream = sys.stdout if stream is None else stream
        self._total_steps = total_steps
        self._stopwatch = Stopwatch(start_step, total_steps, images_per_step, clock)
        self._speaks = jax.process_index() == 0
        self._table = None
        if self._speaks and self._stream.isatty():
            self._table = LiveTable(self._stream, start_step, total_steps)

    def advance(self, step: int) -> None:
        """Notes that `step` is finished; call it after every step."""
        self._stopwatch.advance(step)
        if self._table is not None:
            self._table.advance(step)

    def pause(self, reason: str) -> Any:
        """A context for everything but training: see `Stopwatch.pause`."""
        return self._stopwatch.pause(reason)

    def log(self, step: int, columns: Mapping[str, float | str]) -> Lap:
        """Prints `step`, the columns, images/s, ETA and the pauses since the previous line.

        Args:
          step: Finished updates.
          columns: Header to number or text, in order: {"loss": 5.1, "H/lnK": 0.98, "lr": 1e-4}.

        Returns:
          The times of this interval, for the metrics.
        """
        self.advance(step)
        lap = self._stopwatch.lap()
        speed, left = lap.images_per_second, lap.seconds_left
        shown = {
            **columns,
            "images/s": "-" if speed is None else f"{speed:.0f}" if speed >= 10 else f"{speed:.2f}",
            "ETA": "-" if left is None else format_duration(left),
        }
        shown = {name: x if isinstance(x, str) else format_number(x) for name, x in shown.items()}
        pauses = [f"({reason} {x:.1f} s)" for reason, x in lap.pauses.items() if x >= SHOWN_PAUSE]
        if self._table is not None:
            self._table.add({"step": str(step), **shown, "": "  ".join(pauses)})
            return lap
        width = len(str(self._total_steps))
        parts = [f"step {step:{width}d}/{self._total_steps}"]
        parts += [f"{name} {text}" for name, text in shown.items()]
        self.say("  ".join(parts + pauses))
        return lap

    def say(self, text: str) -> None:
        """Prints a line, above the table if there is one."""
        if self._table is not None:
            self._table.print(for_terminal(text))
        elif self._speaks:
            print(for_terminal(text), file=self._stream, flush=True)

    def close(self) -> None:
        """Leaves the table as it is; more than one call is fine."""
        if self._table is not None:
            self._table.close()
            self._table = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class LiveTable:
    """A table that is redrawn in place; printed lines go above it."""

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


@contextmanager
def say_if_slow(text: str, seconds: float = 3.0) -> Iterator[None]:
    """Prints `text`, on process 0, if what runs inside takes longer than `seconds`."""
    timer = threading.Timer(seconds, print, [f"{text} …"], {"flush": True})
    if jax.process_index() == 0:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def format_number(value: float) -> str:
    """Four decimals from 0.01 to 10,000, scientific beyond: 5.1234, 1.25e-04, 0, nan."""
    size = abs(float(value))
    plain = not math.isfinite(size) or size == 0 or 0.01 <= size < 1e4
    return "0" if size == 0 else f"{float(value):.4f}" if plain else f"{float(value):.2e}"


def format_duration(seconds: float) -> str:
    """Seconds as h:mm:ss, rounded: 3661 -> "1:01:01".

    Raises:
      ValueError: if `seconds` is negative or not finite.
    """
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"a duration must be finite and at least 0 seconds, got {seconds}")
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"
