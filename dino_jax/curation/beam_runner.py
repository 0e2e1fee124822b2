"""The tasks of curation as pipelines of Apache Beam: one pipeline per task.

  shards ─ Reshuffle ─ task                          each
  shards ─ Reshuffle ─ task ─ CombinePerKey(sum) ─ a file per key      total
  shards ─ Reshuffle ─ emit ─ GroupByKey ─ reduce    grouped

Vectors travel in `grouped` only; elsewhere numbers of shards, and sums.
"""

# pyright: reportMissingImports=false
# (apache_beam is an extra)

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions
from etils import epath

from dino_jax.curation.pool import load_array
from dino_jax.curation.runner import Grouped, Summand
from dino_jax.workdir.paths import written_whole


class BeamRunner:
    """Runs each task as a pipeline."""

    is_local = False

    def __init__(self, arguments: Sequence[str], scratch: str):
        """Runs nothing yet.

        Args:
          arguments: of Beam's PipelineOptions.
          scratch: folder for sums on their way, reachable from all workers.
        """
        self._arguments, self._scratch = list(arguments), scratch

    def each(self, title: str, task: Callable[[int], None], shards: Sequence[int]) -> None:
        if not shards:
            return
        with self._pipeline() as pipeline:
            _ = self._shards(pipeline, shards) | title >> beam.Map(task)

    def total(
        self, title: str, task: Callable[[int], Iterable[Summand]], shards: Sequence[int]
    ) -> dict[int, np.ndarray]:
        epath.Path(self._scratch).mkdir(parents=True, exist_ok=True)
        folder = (
            tempfile.mkdtemp(dir=self._scratch)
            if "://" not in self._scratch
            else (f"{self._scratch}/sums")
        )
        with self._pipeline() as pipeline:
            _ = (
                self._shards(pipeline, shards)
                | title >> beam.FlatMap(task)
                | "Add" >> beam.CombinePerKey(_AddArrays())
                | "Write" >> beam.Map(_write_sum, folder)
            )
        found = {}
        for path in sorted(epath.Path(folder).iterdir()):
            found[int(path.name.removesuffix(".npy"))] = load_array(str(path))
        epath.Path(folder).rmtree()
        return found

    def grouped(self, title: str, task: Grouped, shards: Sequence[int]) -> None:
        with self._pipeline() as pipeline:
            _ = (
                self._shards(pipeline, shards)
                | title >> beam.ParDo(_Emit(task))
                | beam.GroupByKey()
                | "Reduce" >> beam.ParDo(_Reduce(task))
            )

    def _pipeline(self) -> Any:
        return beam.Pipeline(options=PipelineOptions(self._arguments))

    def _shards(self, pipeline: Any, shards: Sequence[int]) -> Any:
        return pipeline | "Shards" >> beam.Create(list(shards)) | beam.Reshuffle()


class _AddArrays(beam.CombineFn):
    """The sum of arrays; the accumulator is None before the first."""

    def create_accumulator(self) -> np.ndarray | None:
        return None

    def add_input(self, mutable_accumulator: np.ndarray | None, element: np.ndarray) -> np.ndarray:
        return element.copy() if mutable_accumulator is None else mutable_accumulator + element

    def merge_accumulators(self, accumulators: Iterable[np.ndarray | None]) -> np.ndarray | None:
        found = [one for one in accumulators if one is not None]
        return sum(found[1:], found[0]) if found else None

    def extract_output(self, accumulator: np.ndarray | None) -> np.ndarray | None:
        return accumulator


class _Emit(beam.DoFn):
    def __init__(self, task: Grouped):
        self._task = task

    def process(self, element: int) -> Iterator[Any]:
        yield from self._task.emit(element, range(self._task.keys))


class _Reduce(beam.DoFn):
    def __init__(self, task: Grouped):
        self._task = task

    def process(self, element: tuple[int, Iterable[Any]]) -> None:
        key, members = element
        self._task.reduce(key, list(members))


def _write_sum(element: tuple[int, np.ndarray], folder: str) -> None:
    key, array = element
    with written_whole(f"{folder}/{key}.npy") as path, Path(path).open("wb") as file:
        np.save(file, array)
