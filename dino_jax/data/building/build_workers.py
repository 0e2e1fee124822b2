"""Runs the parts of a build in processes and shows how far they are."""

import concurrent.futures
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from dino_jax.data.slots import Batch
from dino_jax.data.sources import ImageSource
from dino_jax.data.worker_process import follow_parent

POLL_SECONDS = 0.2
LINE_SECONDS = 10.0  # between lines where the output is no terminal

# A part of the work: called with the source and with what to call after each image.
Task = Callable[[ImageSource, Callable[[], None]], None]


class Progress:
    """A bar on a terminal, a line now and then elsewhere."""

    def __init__(self, title: str, total: int, unit: str = "images"):
        self._title, self._total, self._unit = title, total, unit
        self._begin = self._said = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=total, desc=title, unit=f" {unit}", unit_scale=True)

    def show(self, done: int) -> None:
        """Shows how many are done."""
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
        elif now - self._said >= LINE_SECONDS:
            self._said = now
            speed = done / (now - self._begin)
            print(
                f"{self._title:11} {done:,} of {self._total:,} {self._unit}, {speed:,.0f}/s",
                flush=True,
            )

    def close(self) -> None:
        """Leaves the bar as it is."""
        if self._bar is not None:
            self._bar.close()


def show_progress(stream: Iterable[Batch], title: str, total: int) -> Iterator[Batch]:
    """Passes the batches of an evaluation stream on; shows how many of `total` images are done."""
    progress, done = Progress(title, total), 0
    try:
        for batch in stream:
            yield batch
            done += int(np.sum(batch["valid"] | (batch["unreadable"] >= 0)))
            progress.show(done)
    finally:
        progress.close()


def run_tasks(
    source: ImageSource, tasks: Sequence[Task], title: str, images: int, workers: int
) -> None:
    """Runs all tasks, in any order.

    Args:
      source: given to every task; pickled once for each process.
      tasks: picklable if there are workers.
      title: of the progress.
      images: how often the tasks will report an image.
      workers: processes; 0 runs the tasks in this one.

    Raises:
      OSError: the first one of a task; the others are stopped.
      Stopped: inside `signals.stop_on_signals`.
    """
    progress = Progress(title, images)
    try:
        if workers:
            _run_in_processes(source, tasks, progress, workers)
        else:
            _run_here(source, tasks, progress)
    finally:
        progress.close()


def _run_here(source: ImageSource, tasks: Sequence[Task], progress: Progress) -> None:
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        progress.show(done)

    for task in tasks:
        task(source, count)


def _run_in_processes(
    source: ImageSource, tasks: Sequence[Task], progress: Progress, workers: int
) -> None:
    context = multiprocessing.get_context("spawn")
    done, stop = context.Value("q", 0), context.Event()
    pool = concurrent.futures.ProcessPoolExecutor(
        min(workers, max(1, len(tasks))),
        mp_context=context,
        initializer=_WorkerProcess.begin,
        initargs=(source, done, stop),
    )
    try:
        pending = {pool.submit(_WorkerProcess.run, task) for task in tasks}
        while pending:
            finished, pending = concurrent.futures.wait(
                pending, POLL_SECONDS, concurrent.futures.FIRST_COMPLETED
            )
            progress.show(done.value)
            for future in finished:
                future.result()
    except concurrent.futures.process.BrokenProcessPool as error:
        raise OSError(
            "a worker process has died, probably because the memory is full; the same command goes "
            "on, with fewer --workers or a smaller --max-pixels"
        ) from error
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


class _StopWorkError(Exception):
    """Ends a task of a build that stops."""


class _WorkerProcess:
    """What a worker process has been given when it began; one per process, set once."""

    source: ImageSource
    done: Any
    stop: Any

    @classmethod
    def begin(cls, source: ImageSource, done: Any, stop: Any) -> None:
        """Leaves signals to the parent and ends with it, even if that is killed."""
        follow_parent()
        cls.source, cls.done, cls.stop = source, done, stop

    @classmethod
    def run(cls, task: Task) -> None:
        """Runs one task, unless the build stops."""
        cls._check()
        task(cls.source, cls._count)

    @classmethod
    def _count(cls) -> None:
        with cls.done.get_lock():
            cls.done.value += 1
        cls._check()

    @classmethod
    def _check(cls) -> None:
        if cls.stop.is_set():
            raise _StopWorkError
