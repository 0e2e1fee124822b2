"""How an evaluation reads its images."""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from dino_jax.commands.progress import show_progress
from dino_jax.data.decoding import RGB, Decoding
from dino_jax.data.pipeline import Batch, build_eval_stream
from dino_jax.data.sources import ImageSource
from dino_jax.data.view import USUAL_VIEW, View
from dino_jax.evaluation.options.groups import USUAL_BATCH
from dino_jax.evaluation.result import MOST_NAMED
from dino_jax.weights.limits import check_batch, check_side
from dino_jax.weights.model import Model, decoded_by


class Reading(NamedTuple):
    """How images are read; only the sizes affect the result.

    Attributes:
      image_size: side in pixels, see `view.resize_for_evaluation`.
      batch_size: images per batch, over all devices.
      max_pixels: larger images count as unreadable.
      threads: threads that decode batches ahead, per process.
      view: how an image becomes a square: as the model has seen them, unless a protocol differs.
      decoding: how image files become pixels.
    """

    image_size: int
    batch_size: int
    max_pixels: int
    threads: int
    view: View = USUAL_VIEW
    decoding: Decoding = RGB

    def stream(self, source: ImageSource, title: str) -> Iterator[Batch]:
        """This process's rows of all images, in order; process 0 shows progress."""
        stream = build_eval_stream(
            source,
            image_size=self.image_size,
            batch_size=self.batch_size,
            max_pixels=self.max_pixels,
            host=jax.process_index(),
            hosts=jax.process_count(),
            threads=self.threads,
            view=self.view,
            channels=self.decoding.channels,
        )
        if jax.process_index():
            return stream
        return show_progress(stream, title, len(source) // jax.process_count())


def reading_of(
    arguments: argparse.Namespace, model: Model, mesh: Mesh, own_photos: bool = False
) -> Reading:
    """Reads the options from the command line.

    Args:
      arguments: options of `add_labelled_arguments` and `add_reading_arguments`.
      model: the model.
      mesh: mesh of the devices.
      own_photos: whether EXIF orientation is applied by default; the official protocols ignore it.

    Raises:
      ValueError: if a size does not fit the model or the devices.
    """
    batch_size = arguments.batch_size or -(-USUAL_BATCH // mesh.size) * mesh.size
    image_size = arguments.image_size or model.image_size
    check_batch(batch_size, mesh.size)
    check_side(model, image_size, "--image-size")
    decoding = decoded_by(model, arguments).decoding
    if not (arguments.orientation or own_photos):
        decoding = replace(decoding, orientation="ignore")
    if jax.process_index() == 0:
        print(f"images: {decoding.describe()}", file=sys.stderr, flush=True)
    threads = arguments.threads
    return Reading(
        image_size, batch_size, arguments.max_pixels, threads, model.view, decoding=decoding
    )


def name_unreadable(source: ImageSource, indices: np.ndarray) -> dict[str, object]:
    """Number of unreadable images and the names of the first ones, for a result."""
    named = [source.name(int(index)) for index in indices[:MOST_NAMED]]
    return {"count": len(indices), "names": named}
