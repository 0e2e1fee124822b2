"""Turns any source of images into ArrayRecord shards.

  dino-jax build /data/imagenet/train --out=/data/imagenet-records/train --workers=16
  dino-jax train --config=… --config.data.kind=arrayrecord \
    --config.data.path=/data/imagenet-records/train

The source is a folder (--kind=folder, the default), a text list, a pattern, tar or Parquet shards,
or a config file (it ends with .py) whose `config.data` is taken: this way mixtures can be built,
too. TFDS and the digits need no path but --kind, --name and --split.

1. Scan: every image is read, hashed (SHA-256) and decoded once, in parallel.
2. Write: the encoded images are written as they are, in the order of the source, in parallel;
   only with --max-side, larger photographs are made smaller and encoded again.
The folder then holds the shards, dataset.json (class names, counts, mean and std), build.json (the
options) and report.txt, which names every unreadable image with the reason, and every image with
the same bytes as an earlier one.

Unreadable images are left out: nothing can be learned from them, and a training stream would have
to replace them in every epoch. If they are more than --max-unreadable of all, nothing is written.
Images of more than 8 bits per channel need --range, as in training; --measure-range reads all of
them and prints their limits, and --compute-stats then gives mean and std for that range.
Copies stay unless --drop-duplicates is given. The same options give the same bytes for any number
of workers.

Ctrl-C and SIGTERM (exit codes 130 and 75) keep finished work; the same command continues. Other
options on the same folder are refused. Where one machine is not enough: dino-jax build-beam.
"""

import argparse
import dataclasses
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from etils import epath

from dino_jax.commands.arguments import COUNT, SHARE, SIDE, WORKERS, filled, whole
from dino_jax.commands.command_line import CommandParser, docstring_of, run_command
from dino_jax.commands.one_writer import one_writer
from dino_jax.commands.signals import Stopped, stop_on_signals
from dino_jax.commands.source_arguments import add_source_arguments, source_config
from dino_jax.data.building.build_plan import PLAN, Options, open_source
from dino_jax.data.building.build_report import REPORT, Selection, report_lines, select_images
from dino_jax.data.building.build_workers import run_tasks
from dino_jax.data.building.inspection import (
    Scan,
    join_scans,
    mean_and_std,
    scan_from_bytes,
    scan_images,
    scan_to_bytes,
)
from dino_jax.data.building.output_folder import open_folder, write_text
from dino_jax.data.decode import MAX_PIXELS
from dino_jax.data.decoding import build_decoding
from dino_jax.data.sources import ImagesConfig, ImageSource
from dino_jax.data.sources.record_format import (
    DESCRIPTION,
    Description,
    shard_name,
    write_description,
)
from dino_jax.data.sources.shard_writer import write_shard
from dino_jax.workdir.paths import absolute_path, written_whole

SCAN_FOLDER = ".scan"
SCAN_IMAGES = 1000  # images of one task at most, which a stopped build has to process again
SCAN_TASKS = 64  # at least, if there are that many images
SHARD_BYTES = 1 << 30  # with --shards=0
MAX_SHARDS = 1024  # with --shards=0


def build(options: Options, out: str, workers: int, max_unreadable: float) -> None:
    """Builds a data set, or continues one.

    Args:
      options: options of the build.
      out: the folder, local or gs://.
      workers: processes; 0 works in this one.
      max_unreadable: largest share of unreadable images, in [0, 1].

    Raises:
      ValueError: if `out` belongs to another build, too many images are unreadable, or the source
        can't be built.
      OSError: if files can't be read or written.
    """
    source = open_source(options)
    classes = f"{len(source.class_names):,} classes" if source.class_names else "no labels"
    say(f"source      {options.source['kind']}, {len(source):,} images, {classes}")
    open_folder(out, PLAN, dataclasses.asdict(options), source, "build")
    if (epath.Path(out) / DESCRIPTION).exists():
        say(f"done        {out} is already complete")
        return

    scan = scan_source(source, options, out, workers)
    selection = select_images(source, scan, options.drop_duplicates, max_unreadable)
    lines = report_lines(
        source,
        int(selection.kept.sum()),
        selection.errors,
        selection.copies,
        options.drop_duplicates,
    )
    for line in lines[: lines.index("")]:
        say(line)

    shards = options.shards or min(MAX_SHARDS, -(-scan.size // SHARD_BYTES))
    counts = write_shards(source, scan, selection, out, shards, workers)
    write_text(f"{out}/{REPORT}", "\n".join(lines) + "\n")
    mean, std, limits = None, None, scan.limits if options.measure_range else None
    if limits is not None:
        say(f"limits      --config.data.range={limits[0]:.9g},{limits[1]:.9g}")
    if options.compute_stats:
        mean, std = mean_and_std(scan.moments[selection.kept], limits or (0.0, 1.0))
        say(f"statistics  mean {mean}, std {std}")
    write_description(out, Description(source.class_names, counts, mean, std, limits))
    (epath.Path(out) / SCAN_FOLDER).rmtree()
    say(f"done        {shards:,} shards in {out}, see report.txt; to train on them:")
    say(f"            --config.data.kind=arrayrecord --config.data.path={out}")


def scan_source(source: ImageSource, options: Options, out: str, workers: int) -> Scan:
    """Inspects all images; parts finished by an earlier run are read back."""
    folder = f"{out}/{SCAN_FOLDER}"
    epath.Path(folder).mkdir(exist_ok=True)
    parts = cut(len(source), max(min(SCAN_TASKS, len(source)), -(-len(source) // SCAN_IMAGES)))
    targets = [f"{folder}/{part.start:012d}.npz" for part in parts]
    open_parts = _unfinished(parts, targets, folder)
    tasks = [
        functools.partial(
            scan_part,
            indices=part,
            target=target,
            max_pixels=options.max_pixels,
            moments=options.compute_stats,
            channels=_channels(options),
            measure_range=options.measure_range,
        )
        for part, target in open_parts
    ]
    run_tasks(source, tasks, "scan", sum(len(part) for part, _ in open_parts), workers)
    return join_scans([scan_from_bytes(epath.Path(target).read_bytes()) for target in targets])


def scan_part(
    source: ImageSource,
    on_image: Callable[[], None],
    *,
    indices: range,
    target: str,
    max_pixels: int,
    moments: bool,
    channels: int,
    measure_range: bool,
) -> None:
    """Inspects some images and writes the result to `target`."""
    scan = scan_images(source, indices, max_pixels, moments, on_image, channels, measure_range)
    with written_whole(target) as path:
        Path(path).write_bytes(scan_to_bytes(scan))


def write_shards(
    source: ImageSource, scan: Scan, selection: Selection, out: str, shards: int, workers: int
) -> dict[str, int]:
    """Writes the missing shards; shard s holds the kept images of an equal part.

    Returns:
      Records by shard name.
    """
    bounds = cut(len(source), shards)
    kept = [part.start + np.flatnonzero(selection.kept[part.start : part.stop]) for part in bounds]
    targets = [f"{out}/{shard_name(shard, shards)}" for shard in range(shards)]
    open_parts = _unfinished(kept, targets, out)
    tasks = [
        functools.partial(write_part, indices=indices, digests=scan.digests[indices], target=target)
        for indices, target in open_parts
    ]
    run_tasks(source, tasks, "write", sum(len(indices) for indices, _ in open_parts), workers)
    return {shard_name(shard, shards): len(indices) for shard, indices in enumerate(kept)}


def write_part(
    source: ImageSource,
    on_image: Callable[[], None],
    *,
    indices: np.ndarray,
    digests: np.ndarray,
    target: str,
) -> None:
    """Writes one shard."""
    write_shard(source, indices.tolist(), digests, target, on_image)


def _channels(options: Options) -> int:
    section = ImagesConfig(channels=options.source.get("channels", 0))
    return build_decoding("SOURCE", section).channels


def cut(images: int, parts: int) -> list[range]:
    """Consecutive parts of all images, whose sizes differ by at most one."""
    return [range(part * images // parts, (part + 1) * images // parts) for part in range(parts)]


def _unfinished(parts: list, targets: list[str], folder: str) -> list[tuple]:
    """The parts whose file is not in the folder yet, each with its file."""
    present = {entry.name for entry in epath.Path(folder).iterdir()}
    return [
        (part, target)
        for part, target in zip(parts, targets, strict=True)
        if target.rpartition("/")[2] not in present
    ]


def say(line: str) -> None:
    """Prints a line at once, also into a pipe."""
    print(line, flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that decide the result; the Beam pipeline has the same."""
    add_source_arguments(parser)
    add = parser.add_argument
    add("--out", type=filled, required=True, help="new folder for the shards, local or gs://")
    add("--shards", type=whole(0, 100_000), default=0, help="0: one per GiB, at most 1,024")
    add("--max-pixels", type=COUNT, default=MAX_PIXELS, help="larger images count as unreadable")
    add(
        "--max-side",
        type=SIDE,
        default=0,
        help="make photographs with a longer side smaller, to so many pixels; default: keep them",
    )
    add("--drop-duplicates", action="store_true", help="leave out files with equal bytes")
    add("--compute-stats", action="store_true", help="mean and std of the channels")
    add("--max-unreadable", type=SHARE, default=0.01, help="largest share of unreadable images")


def options_of(arguments: argparse.Namespace) -> Options:
    """Reads the options from the command line.

    Raises:
      UsageError: if the config file can't be read.
      ValueError: if a number is out of range.
    """
    return Options(
        source=source_config(arguments),
        shards=arguments.shards,
        max_pixels=arguments.max_pixels,
        drop_duplicates=arguments.drop_duplicates,
        compute_stats=arguments.compute_stats,
        measure_range=getattr(arguments, "measure_range", False),
        max_side=arguments.max_side,
    )


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = CommandParser("build", __doc__ or docstring_of(__file__))
    add_arguments(parser)
    parser.add_argument(
        "--measure-range",
        action="store_true",
        help="read numbers of any type, and find their limits, for config.data.range",
    )
    parser.add_argument("--workers", type=WORKERS, default=8, help="processes; 0: this one only")
    arguments = parser.parse_args(argv)

    def work() -> str:
        out = os.fspath(absolute_path(arguments.out))
        with stop_on_signals(), one_writer(out, "--out"):
            build(options_of(arguments), out, arguments.workers, arguments.max_unreadable)
        return ""

    try:
        return run_command(work)
    except Stopped as stopped:
        print(f"{stopped.name}: the same command continues where this one stopped", file=sys.stderr)
        return stopped.exit_code


if __name__ == "__main__":
    sys.exit(main())
