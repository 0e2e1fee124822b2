"""The work of `dino-jax search update`: an index follows its folder of photographs.

A file whose size and time are those of its row is left alone; of others the SHA-256 decides. New
bytes are embedded, 10,000 photographs at a time, and each such block is committed: a command that
was stopped continues with what is missing.
"""

import argparse
import contextlib
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dino_jax.commands.batch_command import run_batch_command
from dino_jax.commands.progress import show_progress
from dino_jax.data.pipeline import build_eval_stream
from dino_jax.data.sources import FolderSource
from dino_jax.data.sources.decoded import decoded
from dino_jax.embedding.embed import make_local_mesh
from dino_jax.embedding.embedder import Embed, make_embedder
from dino_jax.embedding.rows import Row as Embedded
from dino_jax.embedding.rows import Subset, embed_rows
from dino_jax.foreign.names import printable
from dino_jax.search.codes import unit_rows
from dino_jax.search.index import Index
from dino_jax.search.manifest import read_manifest
from dino_jax.search.metadata import read_table
from dino_jax.search.mixture import join
from dino_jax.search.origin import open_change, open_models
from dino_jax.search.photos import UPRIGHT, PhotoFile, digest_files, list_photos
from dino_jax.search.segment import Row
from dino_jax.search.writer import Writer, advice, writing
from dino_jax.weights.limits import check_batch
from dino_jax.weights.model import Model

BLOCK = 10_000  # photographs of one commit
SHOWN = 5  # names of unreadable files


class Work(NamedTuple):
    """What an update has to do.

    Attributes:
      embedded: files with new bytes, their digests, and the row that each replaces, or None.
      copied: files whose bytes a row has already, their digests, and that row.
      removed: rows whose files have gone, or have another name.
      counts: number of new, changed, renamed and vanished files.
    """

    embedded: list[tuple[PhotoFile, str, int | None]]
    copied: list[tuple[PhotoFile, str, int]]
    removed: list[int]
    counts: dict[str, int]


def compare(index: Index, files: Sequence[PhotoFile]) -> Work:
    """Compares the files of a folder with the rows of an index."""
    rows = {row.name: (number, row) for number, row in index.rows()}
    suspects = [file for file in files if not _is_same(file, rows)]
    digests = dict(zip(suspects, digest_files(file.path for file in suspects), strict=True))
    known = {row.sha256: number for number, row in rows.values() if row.sha256}
    there = {file.name for file in files}
    vanished = {number: row for number, row in rows.values() if row.name not in there}
    gone = {row.sha256: number for number, row in vanished.items() if row.sha256}
    work = Work([], [], list(vanished), dict.fromkeys(("new", "changed", "renamed"), 0))
    for file, digest in digests.items():
        number, row = rows.get(file.name, (None, None))
        if row is not None and row.sha256 == digest != "":
            continue  # only its time has changed
        if digest in gone and number is None:
            work.counts["renamed"] += 1
            work.copied.append((file, digest, gone.pop(digest)))
            continue
        work.counts["new" if number is None else "changed"] += 1
        if digest in known and number is None:
            work.copied.append((file, digest, known[digest]))
        else:
            work.embedded.append((file, digest, number))
    work.counts["vanished"] = len(vanished) - work.counts["renamed"]
    return work


def _is_same(file: PhotoFile, rows: dict[str, tuple[int, Row]]) -> bool:
    _, row = rows.get(file.name, (0, None))
    return row is not None and (row.size, row.mtime_ns) == (file.size, file.mtime_ns)


def follow(
    writer: Writer, models: Sequence[Model], source: FolderSource, arguments: argparse.Namespace
) -> str:
    """Brings an index to what a folder holds, and commits.

    Args:
      writer: of the index.
      models: of the index.
      source: the folder.
      arguments: with batch_size, threads and max_pixels.

    Returns:
      One line with the counts.
    """
    index = Index(writer.folder, writer.manifest)
    files = list_photos(source, writer.manifest.photos)
    work = compare(index, files)
    if work.copied or work.removed:
        vectors = index.vectors([number for *_, number in work.copied])
        rows = [_row(file, digest, source) for file, digest, _ in work.copied]
        writer.remove(work.removed)
        writer.add([(vectors, rows)])
        writer.commit()
    lost = []
    if work.embedded:
        lost = _embed(writer, models, source, work.embedded, arguments)
    for name in lost[:SHOWN]:
        print(f"unreadable image, left out: {name}", file=sys.stderr)
    counted = ", ".join(f"{count:,} {what}" for what, count in work.counts.items())
    left_out = f"; {len(lost):,} could not be read" if lost else ""
    total = len(Index(writer.folder, writer.manifest))
    return f"{writer.folder}: {counted}{left_out}; {total:,} photos now{advice(writer)}"


def _embed(
    writer: Writer,
    models: Sequence[Model],
    source: FolderSource,
    wanted: list[tuple[PhotoFile, str, int | None]],
    arguments: argparse.Namespace,
) -> list[str]:
    """Embeds and commits block by block; returns the names of files that could not be read."""
    subset = Subset(decoded(source, UPRIGHT), np.array([file.place for file, *_ in wanted]))
    lost, each = [], []
    with contextlib.ExitStack() as stack:
        for place, (model, origin) in enumerate(zip(models, writer.manifest.origins, strict=True)):
            stream = build_eval_stream(
                subset,
                image_size=origin.image_size,
                batch_size=arguments.batch_size,
                max_pixels=arguments.max_pixels,
                threads=arguments.threads,
                view=model.view,
            )
            stack.enter_context(contextlib.closing(stream))
            shown = stream if place else show_progress(stream, "embed", len(subset))
            each.append(embed_rows(_build_embedder(writer, model, place), shown, subset))
        made = zip(*each, strict=True)
        for start in range(0, len(wanted), BLOCK):
            block = wanted[start : start + BLOCK]
            lost += _commit(writer, source, block, itertools.islice(made, len(block)))
    return lost


def _commit(
    writer: Writer,
    source: FolderSource,
    block: list[tuple[PhotoFile, str, int | None]],
    made: Iterator[tuple[Embedded, ...]],
) -> list[str]:
    rows, vectors, lost = [], [], []
    for (file, digest, replaced), seen in zip(block, made, strict=True):
        if replaced is not None:
            writer.remove([replaced])
        if all(one.readable for one in seen):
            rows.append(_row(file, digest, source))
            vectors.append(join([one.vector for one in seen]))
        else:
            lost.append(file.name)
    if rows:
        writer.add([(unit_rows(np.stack(vectors)), rows)])
    writer.commit()
    return lost


def _build_embedder(writer: Writer, model: Model, place: int) -> Embed:
    origin = writer.manifest.origins[place]
    return make_embedder(
        model,
        make_local_mesh(),
        tokens=origin.tokens,
        layers=origin.layers,
        projection=None if place else open_change(writer.manifest, writer.folder),
    )


def _row(file: PhotoFile, digest: str, source: FolderSource) -> Row:
    label = file.name.partition("/")[0] if source.class_names else None
    return Row(file.name, label and printable(label), file.size, file.mtime_ns, digest)


def set_metadata(writer: Writer, path: str, key: str) -> str:
    """Takes a table over, which the next commit makes visible; returns a line about it."""
    table = read_table(path, key)
    names = {row.name for _, row in Index(writer.folder, writer.manifest).rows()}
    writer.set_table(table)
    without, surplus = len(names - table.keys()), len(table.keys() - names)
    columns = len(next(iter(table.values())))
    return (
        f"{path}: {columns} columns of {len(table):,} photos; {without:,} photos of the index have "
        f"no row in it, {surplus:,} rows name no photo of the index"
    )


def update(arguments: argparse.Namespace) -> str:
    """Follows the folder, and takes a table over if one is given; returns lines about both."""
    import jax

    check_batch(arguments.batch_size, jax.local_device_count())
    folder = Path(arguments.index).expanduser()
    manifest, lines = read_manifest(folder), []
    photos = arguments.photos or manifest.photos
    if not photos and not arguments.metadata:
        raise ValueError(f"{folder} does not know the folder of its photos; pass PHOTOS")
    # The table alone needs no model: prices change more often than photographs.
    models, source = [], None
    if photos and (arguments.photos or not arguments.metadata):
        photos = str(Path(photos).expanduser().absolute())
        source = FolderSource(photos)
        models = open_models(manifest, arguments, folder)
    with writing(folder) as writer:
        if source is not None:
            writer.set_photos(photos)
            lines.append(follow(writer, models, source, arguments))
        if arguments.metadata:
            lines.append(set_metadata(writer, arguments.metadata, arguments.key))
            writer.commit()
    return "\n".join(lines)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    arguments.distributed = False
    when_stopped = "what was committed stays; the same command continues"
    return run_batch_command(lambda _: update(arguments), when_stopped, arguments)
