"""The work of `dino-jax embed --tokens=patches`: the features of all patches of images."""

import argparse
import contextlib
import dataclasses
import os
from collections.abc import Generator, Iterator, Sequence
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
from jax.experimental import multihost_utils

from dino_jax.commands.batch_command import run_batch_command
from dino_jax.commands.one_writer import one_writer
from dino_jax.commands.progress import Progress
from dino_jax.commands.source_arguments import source_config
from dino_jax.data.building.output_folder import check_folder, open_folder
from dino_jax.data.decode import UnreadableImageError
from dino_jax.data.pipeline import iterate, read_options
from dino_jax.data.reading import read_image
from dino_jax.data.sources import ImageSource, said_whole
from dino_jax.embedding.dense import PatchEmbed, Picture, embed_pictures, make_patch_embedder
from dino_jax.embedding.dense_shards import DenseRow, DenseShards
from dino_jax.embedding.embed import Machine, make_local_mesh, open_source, say_decoding
from dino_jax.embedding.embedded import PLAN
from dino_jax.embedding.embedder import check_tokens
from dino_jax.embedding.rows import say_reasons, shard_range
from dino_jax.embedding.tiles import fit_grid, resize_to_grid
from dino_jax.foreign.names import printable
from dino_jax.processes.agreement import Agreement
from dino_jax.weights.limits import attention_bytes, check_batch, check_side, most_bytes
from dino_jax.weights.model import Model, decoded_by, load
from dino_jax.workdir.paths import absolute_path

TILE_PATCHES = 48  # of a tile's side, unless asked otherwise: its attention fits everywhere
TILES_PER_DEVICE = 8  # of a TPU or GPU; a CPU is as fast with one


@dataclasses.dataclass(frozen=True)
class PatchOptions:
    """Options that determine the result, named as on the command line.

    Attributes:
      image_size: short side of an image in pixels, 0 for its own size.
      tile: side of a tile in pixels, at most.
      overlap: pixels that neighbouring tiles share, at least.
    """

    model: str
    source: dict[str, Any]
    image_size: int
    tile: int
    overlap: int
    layers: int
    normalize: bool
    dtype: str
    shard_images: int
    max_pixels: int
    tokens: str = "patches"


class _Read(NamedTuple):
    """What is known of an image besides its pixels."""

    name: str
    label: str | None
    size: tuple[int, int]


def embed_patches(
    model: Model, options: PatchOptions, out: str, machine: Machine, agreement: Agreement
) -> str:
    """Makes the shards that are missing.

    Args:
      model: loaded model.
      options: options of the result.
      out: the folder, local or gs://.
      machine: options of the execution; its batches are of tiles.
      agreement: agreement of all processes.

    Returns:
      One line about the finished shards; "" on processes other than 0.

    Raises:
      ValueError: if an option does not fit the model or the images, or `out` has other options.
      OSError: if files can't be read or written.
    """
    source = _prepare(model, options, out, machine, agreement)
    shards = DenseShards(out, -(-len(source) // options.shard_images), options.dtype)
    begin, count = jax.process_index(), jax.process_count()
    missing = [i for i in range(begin, shards.count, count) if not shards.is_written(i)]
    ranges = [shard_range(shard, options.shard_images, len(source)) for shard in missing]
    progress = Progress("embed", sum(map(len, ranges)))
    patch_size, done = model.network.backbone.patch_size, 0
    embed = make_patch_embedder(
        model, make_local_mesh(), layers=options.layers, normalize=options.normalize
    )
    for shard, indices in zip(missing, ranges, strict=True):
        with contextlib.closing(
            _rows(embed, patch_size, options, machine, source, indices)
        ) as rows:
            shards.write(shard, _shown(say_reasons(rows), progress, done))
        done += len(indices)
    progress.close()
    _wait_for_all("shards")
    return _describe(shards, out) if begin == 0 else ""


def _prepare(
    model: Model, options: PatchOptions, out: str, machine: Machine, agreement: Agreement
) -> ImageSource:
    """Checks all options, and makes the folder last."""
    check_tokens(model.network, "patches", options.layers)
    check_side(model, options.tile, "--tile")
    patch_size = model.network.backbone.patch_size
    if options.image_size and options.image_size < patch_size:
        check_side(model, options.image_size, "--image-size")
    if _overlap(options, patch_size) >= options.tile // patch_size:
        raise ValueError(
            f"--overlap={options.overlap} must be smaller than --tile={options.tile} by a patch of "
            f"{patch_size} pixels at least"
        )
    devices = jax.local_device_count()
    check_batch(machine.batch_size, devices)
    needed = attention_bytes(model, options.tile, options.tile) * machine.batch_size
    if needed > most_bytes():
        raise ValueError(
            f"the attention of --batch-size={machine.batch_size} tiles of --tile={options.tile} "
            f"takes {needed / 1e9:,.0f} GB, and this machine has {most_bytes() / 1e9:,.0f}; use "
            f"--batch-size={devices} or a smaller tile"
        )
    source = open_source(options.source, {"MODEL": options.model}, agreement)
    if jax.process_index() == 0:
        plain = dataclasses.asdict(options)
        check_folder(out, PLAN, plain, source, "embedding")
        open_folder(out, PLAN, plain, source, "embedding")
    _wait_for_all("folder")
    return source


def _overlap(options: PatchOptions, patch_size: int) -> int:
    """Patches that hold the pixels of --overlap."""
    return -(-options.overlap // patch_size)


def _rows(
    embed: PatchEmbed,
    patch_size: int,
    options: PatchOptions,
    machine: Machine,
    source: ImageSource,
    indices: np.ndarray,
) -> Generator[DenseRow]:
    """A row per image, in order."""
    load = _Load(source, indices, patch_size, options.image_size or None, options.max_pixels)
    dataset = grain.MapDataset.range(len(indices)).map(load)
    unreadable: dict[int, DenseRow] = {}

    def pictures(stream: Iterator[Any]) -> Iterator[Picture]:
        for position, each in enumerate(stream):
            if isinstance(each, DenseRow):
                unreadable[position] = each
            else:
                pixels, read = each
                yield Picture(pixels, (position, read))

    following = 0
    elements = iterate(dataset.to_iter_dataset(read_options(machine.threads)))
    with contextlib.closing(elements):
        found = embed_pictures(
            pictures(elements),
            embed,
            patch_size,
            side=options.tile // patch_size,
            overlap=_overlap(options, patch_size),
            batch_size=machine.batch_size,
        )
        for (position, read), features in found:
            yield from (unreadable.pop(i) for i in range(following, position))
            yield DenseRow(read.name, read.label, read.size, features)
            following = position + 1
        yield from (unreadable.pop(i) for i in range(following, len(indices)))


@dataclasses.dataclass(frozen=True)
class _Load:
    """Reads an image and resizes it to whole patches; of an unreadable one, its row."""

    source: ImageSource
    indices: np.ndarray
    patch_size: int
    short_side: int | None
    max_pixels: int

    def __call__(self, position: int) -> Any:
        index = int(self.indices[position])
        try:
            image, label, name = read_image(self.source, index, self.max_pixels)
        except UnreadableImageError as error:
            return DenseRow(self.source.name(index), None, (0, 0), None, str(error))
        height, width = image.shape[:2]
        grid = fit_grid((height, width), self.patch_size, self.short_side)
        names: Sequence[str] = self.source.class_names
        known = printable(names[label]) if 0 <= label < len(names) else None
        pixels = resize_to_grid(image, grid, self.patch_size)
        return pixels, _Read(printable(name), known, (height, width))


def _shown(rows: Iterator[DenseRow], progress: Progress, done: int) -> Iterator[DenseRow]:
    for count, row in enumerate(rows, 1):
        yield row
        progress.show(done + count)


def _describe(shards: DenseShards, out: str) -> str:
    images, unreadable = shards.count_rows()
    lost = f"; {unreadable:,} images could not be read, see unreadable-*.txt" if unreadable else ""
    return f"{out}: patches of {images:,} images in {shards.count} shards{lost}"


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""

    def work(agreement: Agreement) -> str:
        model = decoded_by(load(arguments.model, arguments.step, arguments.compute), arguments)
        say_decoding(model)
        tile = arguments.tile or TILE_PATCHES * model.network.backbone.patch_size
        own = 0 if arguments.own_size else arguments.image_size or model.image_size
        options = PatchOptions(
            model=model.title,
            source=said_whole(source_config(arguments), "SOURCE", model.decoding),
            image_size=own,
            tile=tile,
            overlap=tile // 4 if arguments.overlap is None else arguments.overlap,
            layers=arguments.layers,
            normalize=arguments.normalize,
            dtype=arguments.dtype,
            shard_images=arguments.shard_images,
            max_pixels=arguments.max_pixels,
        )
        batch_size = arguments.batch_size or _batch_size()
        machine = Machine(batch_size, arguments.threads)
        out = os.fspath(absolute_path(arguments.out))
        with one_writer(out, "--out", agreement):
            return embed_patches(model, options, out, machine, agreement)

    when_stopped = "the same command continues where this one stopped"
    return run_batch_command(work, when_stopped, arguments)


def _batch_size() -> int:
    """Tiles at once, where the command line does not say."""
    return jax.local_device_count() * (1 if jax.default_backend() == "cpu" else TILES_PER_DEVICE)


def _wait_for_all(what: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"dino_jax:embed_patches:{what}")
