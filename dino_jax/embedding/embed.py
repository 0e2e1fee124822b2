"""The work of `dino-jax embed`: shards of vectors for all images of a source."""

import argparse
import contextlib
import dataclasses
import itertools
import os
import sys
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from dino_jax.commands.batch_command import run_batch_command
from dino_jax.commands.one_writer import one_writer
from dino_jax.commands.progress import show_progress
from dino_jax.commands.source_arguments import source_config
from dino_jax.data.building.output_folder import check_folder, open_folder
from dino_jax.data.pipeline import build_eval_stream
from dino_jax.data.sources import ImageSource, build_source, said_whole
from dino_jax.data.sources.contents import contents_of, describe_contents
from dino_jax.embedding.embedded import PLAN
from dino_jax.embedding.embedder import Embed, check_tokens, make_embedder, width_of
from dino_jax.embedding.projection import (
    Projection,
    check_pca,
    check_random,
    draw_random,
    fit_pca,
    load_projection,
)
from dino_jax.embedding.rows import Subset, collect, embed_rows, say_reasons, shard_range
from dino_jax.embedding.shards import Shards, import_pyarrow
from dino_jax.processes.agreement import Agreement, Alone, open_alike
from dino_jax.weights.limits import check_batch, check_side
from dino_jax.weights.model import Model, decoded_by, load
from dino_jax.workdir.paths import absolute_path

PROJECTION = "projection.npz"


@dataclasses.dataclass(frozen=True)
class Options:
    """Options that determine the result, named as on the command line."""

    model: str
    source: dict[str, Any]
    image_size: int
    tokens: str
    layers: int
    normalize: bool
    reduce: str
    dim: int
    sample: int
    format: str
    shard_images: int
    max_pixels: int


class Machine(NamedTuple):
    """Options of the execution; they change nothing in the result but rounding.

    Attributes:
      batch_size: images per batch on the devices of this process.
      threads: threads that decode batches ahead.
    """

    batch_size: int
    threads: int


def embed(
    model: Model, options: Options, out: str, machine: Machine, agreement: Agreement | None = None
) -> str:
    """Makes the shards that are missing.

    Args:
      model: loaded model.
      options: options of the result.
      out: the folder, local or gs://.
      machine: options of the execution.
      agreement: agreement of all processes, None for a single one.

    Returns:
      One line about the finished shards; "" on processes other than 0.

    Raises:
      ValueError: if an option does not fit the model or the images, or `out` has
        other options.
      OSError: if files can't be read or written.
    """
    source, shards = prepare(model, options, out, machine, agreement or Alone())
    projection = open_embedding(model, options, source, out, machine)
    begin, count = jax.process_index(), jax.process_count()
    missing = [i for i in range(begin, shards.count, count) if not shards.is_written(i)]
    ranges = [shard_range(shard, options.shard_images, len(source)) for shard in missing]
    if missing:
        wanted = Subset(source, np.concatenate(ranges))
        embedder = build_embedder(model, options, machine, projection, options.normalize)
        with contextlib.closing(open_stream(wanted, options, machine, model)) as stream:
            rows = embed_rows(embedder, show_progress(stream, "embed", len(wanted)), wanted)
            for shard, images in zip(missing, ranges, strict=True):
                shards.write(shard, collect(say_reasons(itertools.islice(rows, len(images)))))
    _wait_for_all("shards")
    return describe(shards, out) if begin == 0 else ""


def prepare(
    model: Model, options: Options, out: str, machine: Machine, agreement: Agreement
) -> tuple[ImageSource, Shards]:
    """Checks all options; writes nothing."""
    check_tokens(model.network, options.tokens, options.layers)
    check_side(model, options.image_size, "--image-size")
    check_batch(machine.batch_size, jax.local_device_count())
    if options.format == "parquet":
        import_pyarrow()
    source = open_source(
        options.source, {"MODEL": options.model, "image size": options.image_size}, agreement
    )
    check_dim(model, options, len(source))
    if jax.process_index() == 0:
        check_folder(out, PLAN, dataclasses.asdict(options), source, "embedding")
    return source, Shards(out, -(-len(source) // options.shard_images), options.format)


def open_source(config: dict[str, Any], facts: dict[str, Any], agreement: Agreement) -> ImageSource:
    """Opens SOURCE on all processes, which must find the same images and have the same facts.

    Raises:
      ValueError: on all processes, if one cannot open it, or they differ.
    """

    def describe(source: ImageSource) -> dict[str, Any]:
        return facts | describe_contents(contents_of("SOURCE", source))

    advice = "All hosts need the same model and the same images."
    return open_alike(agreement, partial(build_source, config, "SOURCE"), describe, advice)[0]


def check_dim(model: Model, options: Options, images: int) -> None:
    """Checks --dim against the features and the number of images.

    Raises:
      ValueError: if there are fewer components.
    """
    if options.reduce == "none":
        return
    size = (options.image_size, options.image_size)
    width = width_of(model, size, options.tokens, options.layers)
    if options.reduce == "random":
        check_random(width, options.dim)
    else:
        check_pca((min(options.sample, images), width), options.dim)


def open_embedding(
    model: Model, options: Options, source: ImageSource, out: str, machine: Machine
) -> Projection | None:
    """Makes the folder, and the projection in it if there is to be one; process 0 does.

    The folder is made last: nothing is left of a command that cannot go on.
    """
    path, wanted = epath.Path(out) / PROJECTION, options.reduce != "none"
    if jax.process_index() == 0:
        is_missing = wanted and not path.exists()
        made = find_projection(model, options, source, machine) if is_missing else None
        open_folder(out, PLAN, dataclasses.asdict(options), source, "embedding")
        if made is not None:
            made.save(path)
    _wait_for_all("folder")
    return load_projection(path) if wanted else None


def find_projection(
    model: Model, options: Options, source: ImageSource, machine: Machine
) -> Projection:
    """A random projection, or one computed from evenly spaced images of the source."""
    if options.reduce == "random":
        size = (options.image_size, options.image_size)
        return draw_random(width_of(model, size, options.tokens, options.layers), options.dim)
    count = min(options.sample, len(source))
    sample = Subset(source, np.arange(count) * len(source) // count)
    embedder = build_embedder(model, options, machine, normalize=False)
    with contextlib.closing(open_stream(sample, options, machine, model)) as stream:
        rows = itertools.islice(embed_rows(embedder, stream, sample), count)
        return fit_pca(collect(rows).vectors, options.dim)


def build_embedder(
    model: Model,
    options: Options,
    machine: Machine,
    projection: Projection | None = None,
    normalize: bool = False,
) -> Embed:
    """Compiles the embedder for the devices of this process."""
    return make_embedder(
        model,
        make_local_mesh(),
        tokens=options.tokens,
        layers=options.layers,
        projection=projection,
        normalize=normalize,
    )


def make_local_mesh() -> Mesh:
    """The devices of this process."""
    return Mesh(np.array(jax.local_devices()).reshape(-1, 1), ("data", "fsdp"))


def open_stream(source: ImageSource, options: Options, machine: Machine, model: Model) -> Any:
    """Batches of all images of the source, in order."""
    return build_eval_stream(
        source,
        image_size=options.image_size,
        batch_size=machine.batch_size,
        max_pixels=options.max_pixels,
        threads=machine.threads,
        view=model.view,
        channels=model.network.backbone.in_channels,
    )


def describe(shards: Shards, out: str) -> str:
    """One line about all shards."""
    rows, unreadable = shards.count_rows()
    lost = f"; {unreadable:,} images could not be read, see unreadable-*.txt" if unreadable else ""
    return f"{out}: {rows:,} images in {shards.count} shards{lost}"


def _wait_for_all(what: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"dino_jax:embed:{what}")


def say_decoding(model: Model) -> None:
    """One line, by process 0, about how images become pixels."""
    if jax.process_index() == 0:
        print(f"images: {model.decoding.describe()}", file=sys.stderr, flush=True)


def options_of(arguments: argparse.Namespace, model: Model) -> Options:
    """Reads the options from the command line.

    Raises:
      UsageError: if the config file of the source can't be read.
    """
    return Options(
        model=model.title,
        source=said_whole(source_config(arguments), "SOURCE", model.decoding),
        image_size=arguments.image_size or model.image_size,
        tokens=arguments.tokens,
        layers=arguments.layers,
        normalize=arguments.normalize,
        reduce=arguments.reduce,
        dim=arguments.dim,
        sample=arguments.sample,
        format=arguments.format,
        shard_images=arguments.shard_images,
        max_pixels=arguments.max_pixels,
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""

    def work(agreement: Agreement) -> str:
        model = decoded_by(load(arguments.model, arguments.step, arguments.compute), arguments)
        say_decoding(model)
        options = options_of(arguments, model)
        machine = Machine(arguments.batch_size, arguments.threads)
        out = os.fspath(absolute_path(arguments.out))
        with one_writer(out, "--out", agreement):
            return embed(model, options, out, machine, agreement)

    when_stopped = "the same command continues where this one stopped"
    return run_batch_command(work, when_stopped, arguments)
