"""`dino-jax embed --tokens=patches`: the features of all patches of images of any size."""

import contextlib
import dataclasses
from collections.abc import Generator, Iterator, Sequence
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from dino_jax.commands.progress import Progress
from dino_jax.data.building.output_folder import check_folder, open_folder
from dino_jax.data.decode import UnreadableImageError
from dino_jax.data.pipeline import iterate, read_image, read_options
from dino_jax.data.sources import ImageSource, build_source
from dino_jax.data.sources.contents import contents_of
from dino_jax.embedding.dense import Picture, embed_pictures, make_patch_embedder
from dino_jax.embedding.dense_shards import DenseRow, DenseShards
from dino_jax.embedding.embedder import check_tokens
from dino_jax.embedding.rows import shard_range
from dino_jax.embedding.tiles import fit_grid, resize_to_grid
from dino_jax.foreign.names import printable
from dino_jax.processes.agreement import Agreement, require_same
from dino_jax.weights.limits import check_batch, check_side
from dino_jax.weights.model import Model

PLAN = "embed.json"


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


class Machine(NamedTuple):
    """Options of the execution; they change nothing in the result but rounding.

    Attributes:
      batch_size: tiles per batch on the devices of this process.
      threads: threads that decode images ahead.
    """

    batch_size: int
    threads: int


class _Read(NamedTuple):
    """What is known of an image besides its pixels."""

    index: int
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
      machine: options of the execution.
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
    done = 0
    for shard, indices in zip(missing, ranges, strict=True):
        with contextlib.closing(_rows(model, options, machine, source, indices)) as rows:
            shards.write(shard, _shown(rows, progress, done))
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
    if options.overlap // patch_size >= options.tile // patch_size:
        raise ValueError(
            f"--overlap={options.overlap} must be smaller than --tile={options.tile} by a patch of "
            f"{patch_size} pixels at least"
        )
    check_batch(machine.batch_size, jax.local_device_count())
    source = build_source(options.source, "SOURCE")
    facts = {"MODEL": options.model}
    for where, contents in contents_of("SOURCE", source).items():
        facts |= {f"images of {where}": contents.images, f"names of {where}": contents.digest}
    require_same(agreement, facts, "All hosts need the same model and the same images.")
    if jax.process_index() == 0:
        plain = dataclasses.asdict(options)
        check_folder(out, PLAN, plain, source, "embedding")
        open_folder(out, PLAN, plain, source, "embedding")
    _wait_for_all("folder")
    return source


def _rows(
    model: Model,
    options: PatchOptions,
    machine: Machine,
    source: ImageSource,
    indices: np.ndarray,
) -> Generator[DenseRow]:
    """A row per image, in order."""
    patch_size = model.network.backbone.patch_size
    mesh = Mesh(np.array(jax.local_devices()).reshape(-1, 1), ("data", "fsdp"))
    embed = make_patch_embedder(model, mesh, layers=options.layers, normalize=options.normalize)
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
    with contextlib.closing(iterate(dataset.to_iter_dataset(read_options(machine.threads)))) as all:
        found = embed_pictures(
            pictures(all),
            embed,
            patch_size,
            side=options.tile // patch_size,
            overlap=-(-options.overlap // patch_size),
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
        except UnreadableImageError:
            return DenseRow(self.source.name(index), None, (0, 0), None)
        height, width = image.shape[:2]
        grid = fit_grid((height, width), self.patch_size, self.short_side)
        names: Sequence[str] = self.source.class_names
        known = printable(names[label]) if 0 <= label < len(names) else None
        pixels = resize_to_grid(image, grid, self.patch_size)
        return pixels, _Read(index, printable(name), known, (height, width))


def _shown(rows: Iterator[DenseRow], progress: Progress, done: int) -> Iterator[DenseRow]:
    for count, row in enumerate(rows, 1):
        yield row
        progress.show(done + count)


def _describe(shards: DenseShards, out: str) -> str:
    images, unreadable = shards.count_rows()
    lost = f"; {unreadable:,} images could not be read, see unreadable-*.txt" if unreadable else ""
    return f"{out}: patches of {images:,} images in {shards.count} shards{lost}"


def _wait_for_all(what: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"dino_jax:embed_patches:{what}")
