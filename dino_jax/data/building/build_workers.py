"""Runs the parts of a build in processes and shows their progress."""

import concurrent.futures
import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any

from dino_jax.commands.progress import Progress
from dino_jax.data.sources import ImageSource
from dino_jax.data.worker_process import follow_parent

POLL_SECONDS = 0.2

# A part of the work: called with the source and with a function to call after each image.
Task = Callable[[ImageSource, Callable[[], None]], None]


def run_tasks(
    source: ImageSource, tasks: Sequence[Task], title: str, images: int, workers: int
) -> None:
    """Runs all tasks, in any order.

    Args:
      source: given to every task; pickled once for each process.
      tasks: picklable if there are workers.
      title: title of the progress.
      images: number of images that the tasks will report.
      workers: processes; 0 runs the tasks in this one.

    Raises:
      OSError: the first error of a task; the other tasks are stopped.
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
            "a worker process has died, probably because the memory is full; the same command "
            "continues, with fewer --workers or a smaller --max-pixels"
        ) from error
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


class _StopWorkError(Exception):
    """Ends a task of a build that stops."""


class _WorkerProcess:
    """The data that a worker process received at its start; one per process, set once."""

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
