"""The build as Apache Beam transforms: no image passes between workers, only indices and hashes.

  parts ─ inspect ─┬─ unreadable ────────────────────────────┐
                   └─ by digest ─ kept, copies ──────────────┤
                                  kept ─ by shard ─ write ───┴─ report.txt, dataset.json

Workers read from the source twice, as the local build does: once to inspect, once to write.
"""

# pyright: reportMissingImports=false
# (apache_beam is an extra)

import hashlib
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam import pvalue
from apache_beam.utils.shared import Shared

from dino_jax.data.building.build_plan import Options
from dino_jax.data.building.build_report import REPORT, check_share, report_lines
from dino_jax.data.building.inspection import inspect_image, mean_and_std
from dino_jax.data.building.output_folder import write_text
from dino_jax.data.sources import ImageSource
from dino_jax.data.sources.record_format import Description, shard_name, write_description
from dino_jax.data.sources.shard_writer import write_shard
from dino_jax.foreign.files import read_bytes
from dino_jax.workdir.paths import written_whole

SOURCE_FILE = ".source"
MAX_SOURCE_BYTES = 1 << 34
EXAMPLES = 5  # of unreadable images, if there are too many
PART_IMAGES = 1000  # of one bundle of inspections


@dataclass(frozen=True)
class BeamBuild:
    """Data that every step needs; small, because it travels with the pipeline.

    Attributes:
      options: options of the build; `shards` is at least 1.
      out: the folder, one that all workers can write.
      source_digest: SHA-256 of `SOURCE_FILE`; what travels with the pipeline is trusted, a file in
        the folder is not.
      images: number of images of the source.
      class_names: class names of the source.
      max_unreadable: largest share of unreadable images.
    """

    options: Options
    out: str
    source_digest: bytes
    images: int
    class_names: tuple[str, ...]
    max_unreadable: float

    def shard_of(self, index: int) -> int:
        """The shard of an image, as `build.cut` deals them out."""
        return ((index + 1) * self.options.shards - 1) // self.images


@dataclass(frozen=True)
class Inspected:
    """One image: index, SHA-256, [2, C] moments if requested, and why it can't be used or ""."""

    index: int
    digest: bytes
    moments: np.ndarray | None
    error: str


@dataclass(frozen=True)
class Counted:
    """A shard's number and its records."""

    shard: int
    records: int


def write_source(source: ImageSource, out: str) -> bytes:
    """Stores the listed source where the workers find it: listing it again could differ.

    Returns:
      SHA-256 of the file, without which no worker loads it.
    """
    data = pickle.dumps(source)
    with written_whole(f"{out}/{SOURCE_FILE}") as path:
        Path(path).write_bytes(data)
    return hashlib.sha256(data).digest()


def load_source(out: str, digest: bytes) -> ImageSource:
    """Loads what `write_source` has written, and nothing else: a pickle may run any program.

    Raises:
      OSError: if the file can't be read, or is another one.
    """
    data = read_bytes(f"{out}/{SOURCE_FILE}", MAX_SOURCE_BYTES)
    if hashlib.sha256(data).digest() != digest:
        raise OSError(
            f"{out}/{SOURCE_FILE} is not what this pipeline has written: another one writes into "
            "the same folder, or the file is damaged; run the same command again"
        )
    return pickle.loads(data)


def add_steps(pipeline: beam.Pipeline, build: BeamBuild) -> None:
    """Adds the whole build to a pipeline; the source must have been written before."""
    starts = range(0, build.images, PART_IMAGES)
    inspected = (
        pipeline
        | "Parts" >> beam.Create([(s, min(s + PART_IMAGES, build.images)) for s in starts])
        | beam.Reshuffle()
        | "Inspect" >> beam.ParDo(_Inspect(build))
    )
    unreadable = inspected | "Unreadable" >> beam.Filter(_is_unreadable)
    chosen = (
        inspected
        | "Readable" >> beam.Filter(_is_readable)
        | "KeyByDigest" >> beam.Map(_by_digest)
        | "GroupByDigest" >> beam.GroupByKey()
        | "Choose" >> beam.ParDo(_Choose(build.options.drop_duplicates)).with_outputs()
    )
    reasons = unreadable | "Reasons" >> beam.Map(_reason)
    failures = reasons | "CountUnreadable" >> beam.combiners.Count.Globally()
    examples = reasons | "Examples" >> beam.combiners.Top.Smallest(EXAMPLES)
    no_images = pipeline | "Shards" >> beam.Create([(s, None) for s in range(build.options.shards)])
    counts: Any = (
        (chosen.kept | "KeyByShard" >> beam.Map(_by_shard, build), no_images)
        | beam.Flatten()
        | "GroupByShard" >> beam.GroupByKey()
        | "WriteShard"
        >> beam.ParDo(
            _WriteShard(build),
            failures=pvalue.AsSingleton(failures),
            examples=pvalue.AsSingleton(examples),
        )
    )
    moments = chosen.kept | "SumMoments" >> beam.CombineGlobally(_SumMoments())
    _ = (
        pipeline
        | "Once" >> beam.Create([None])
        | "Finish"
        >> beam.ParDo(
            _Finish(build),
            counts=pvalue.AsIter(counts),
            moments=pvalue.AsSingleton(moments),
            errors=pvalue.AsIter(reasons),
            copies=pvalue.AsIter(chosen.copies),
        )
    )


def _is_unreadable(one: Inspected) -> bool:
    return bool(one.error)


def _is_readable(one: Inspected) -> bool:
    return not one.error


def _by_digest(one: Inspected) -> tuple[bytes, Inspected]:
    return one.digest, one


def _by_shard(one: Inspected, build: BeamBuild) -> tuple[int, Inspected]:
    return build.shard_of(one.index), one


def _reason(one: Inspected) -> tuple[int, str]:
    return one.index, one.error


class _SourceDoFn(beam.DoFn):
    """Holds the source, one copy for all threads of a worker process."""

    def __init__(self, build: BeamBuild):
        self._build, self._shared = build, Shared()

    def setup(self) -> None:
        self._source: ImageSource = self._shared.acquire(self._load)

    def _load(self) -> ImageSource:
        return load_source(self._build.out, self._build.source_digest)


class _Inspect(_SourceDoFn):
    def process(self, element: tuple[int, int]) -> Iterator[Inspected]:
        options = self._build.options
        for index in range(*element):
            found = inspect_image(self._source, index, options.max_pixels, options.compute_stats)
            yield Inspected(index, found.digest, found.moments, found.error)


class _Choose(beam.DoFn):
    """Separates the first of several images with equal bytes from its copies."""

    def __init__(self, drop_duplicates: bool):
        self._drop_duplicates = drop_duplicates

    def process(self, element: tuple[bytes, Iterable[Inspected]]) -> Iterator[Any]:
        _, same = element
        first = min(one.index for one in same)
        for one in same:
            if one.index != first:
                yield pvalue.TaggedOutput("copies", (one.index, first))
            if one.index == first or not self._drop_duplicates:
                yield pvalue.TaggedOutput("kept", one)


class _WriteShard(_SourceDoFn):
    def process(
        self,
        element: tuple[int, Iterable[Inspected | None]],
        failures: int,
        examples: list[tuple[int, str]],
    ) -> Iterator[Counted]:
        build = self._build
        check_share(self._source, examples, failures, build.images, build.max_unreadable)
        shard, images = element
        kept = sorted((one.index, one.digest) for one in images if one is not None)
        digests = np.frombuffer(b"".join(digest for _, digest in kept), np.uint8).reshape(-1, 32)
        target = f"{build.out}/{shard_name(shard, build.options.shards)}"
        write_shard(self._source, [index for index, _ in kept], digests, target, _nothing)
        yield Counted(shard, len(kept))


class _SumMoments(beam.CombineFn):
    """Sums [2, C] moments; the accumulator is (sum, images)."""

    def create_accumulator(self) -> tuple[np.ndarray, int]:
        return np.zeros((2, 1)), 0

    def add_input(
        self, mutable_accumulator: tuple[np.ndarray, int], element: Inspected
    ) -> tuple[np.ndarray, int]:
        total, images = mutable_accumulator
        return (total if element.moments is None else total + element.moments), images + 1

    def merge_accumulators(
        self, accumulators: Iterable[tuple[np.ndarray, int]]
    ) -> tuple[np.ndarray, int]:
        totals, images = zip(*accumulators, strict=True)
        return sum(totals, np.zeros((2, 1))), sum(images)

    def extract_output(self, accumulator: tuple[np.ndarray, int]) -> np.ndarray:
        total, images = accumulator
        return total / max(1, images)


class _Finish(_SourceDoFn):
    """Writes the report and, last of all, dataset.json."""

    def process(
        self,
        element: None,
        counts: Iterable[Counted],
        moments: np.ndarray,
        errors: Iterable[tuple[int, str]],
        copies: Iterable[tuple[int, int]],
    ) -> None:
        build = self._build
        records = {
            shard_name(one.shard, build.options.shards): one.records
            for one in sorted(counts, key=lambda one: one.shard)
        }
        lines = report_lines(
            self._source,
            written=sum(records.values()),
            errors=sorted(errors),
            copies=sorted(copies),
            dropped=build.options.drop_duplicates,
        )
        write_text(f"{build.out}/{REPORT}", "\n".join(lines) + "\n")
        mean, std = mean_and_std(moments[None]) if build.options.compute_stats else (None, None)
        write_description(build.out, Description(build.class_names, records, mean, std))


def _nothing() -> None:
    """Beam counts for itself."""
