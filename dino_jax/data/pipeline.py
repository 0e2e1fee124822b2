"""The input streams: training batches as a pure function of (seed, step), and one evaluation pass.

The training stream is an infinite sequence of positions. Position p is row p % batch_size of step
p // batch_size; its image comes from grain's shuffle of epoch p // len(source), its randomness from
a counter-based generator keyed by (seed, p). Hosts and workers only divide the work, so their
number changes nothing, and a resume starts at any step.
"""

import atexit
from collections.abc import Generator
from dataclasses import dataclass

import grain
import numpy as np
from absl import flags

from dino_jax.data.decode import UnreadableImageError
from dino_jax.data.decoding import require_channels
from dino_jax.data.masking import Masking
from dino_jax.data.multi_crop import Batch, MultiCrop, allocate, compile_kernels
from dino_jax.data.reading import read_image, read_readable
from dino_jax.data.slots import Layout, Slots, set_worker_index
from dino_jax.data.sources import UNLABELED, ImageSource
from dino_jax.data.view import USUAL_VIEW, View
from dino_jax.data.worker_process import follow_parent

READABLE = -1  # in "unreadable": this row's image could be read


def batch_layout(multi_crop: MultiCrop, masking: Masking | None, images: int) -> Layout:
    """Shapes and dtypes of the entries that `build_train_stream` yields for some images.

    Args:
      multi_crop: the augmentation.
      masking: masking of the crops, if any; its groups must divide `images`.
      images: b, number of images.
    """
    masks = masking.layout(images) if masking else {}
    unreadable = {"unreadable": ((images,), np.dtype(np.int64))}
    return unreadable | masks | multi_crop.layout(images)


def build_train_stream(
    source: ImageSource,
    multi_crop: MultiCrop,
    *,
    seed: int,
    batch_size: int,
    start_step: int,
    host: int,
    hosts: int,
    workers: int,
    threads: int,
    max_pixels: int,
    masking: Masking | None = None,
) -> Generator[Batch]:
    """Yields this host's rows of the global batches of steps start_step, start_step + 1, ...

    Epochs follow each other without a gap: each shows every image once, in its own order, and a
    batch may span two. An unreadable image is replaced by the next readable one of the source.
    Close the iterator (or drop it) to end its worker processes.

    Args:
      source: the images.
      multi_crop: the augmentation.
      seed: seed of order and augmentation, >= 0.
      batch_size: global batch size.
      start_step: the first step to yield, >= 0; finished updates of the run.
      host: index of this host (process).
      hosts: number of hosts; host h gets rows h * b to (h + 1) * b, b = batch_size // hosts.
      workers: processes that build whole batches ahead; 0 builds them in this process. Up to
        2 * threads + 4 batches per worker are held in memory.
      threads: threads that build whole batches ahead, in this process or in each worker; 0 builds
        them on demand. Use one with workers: threads share Python's lock.
      max_pixels: larger images count as unreadable.
      masking: masking of the crops, if any; its groups must divide b.

    Yields:
      The entries of `batch_layout`: those of `MultiCrop.layout`, "unreadable": [b] int64 source
      index of the image that had to be replaced, else -1, and the entries that `Masking` draws for
      all groups of the rows.

    Raises:
      ValueError: if the hosts do not divide the batch or it is larger than the source, or (later,
        from the iterator) if 100 images in a row are unreadable.
    """
    check_division(batch_size, host, hosts)
    if masking and batch_size // hosts % masking.group_size:
        raise ValueError(
            f"config.masking.group_size ({masking.group_size}) must divide the "
            f"{batch_size // hosts} images that each host reads per step"
        )
    if batch_size > len(source):
        raise ValueError(
            f"batch_size ({batch_size}) is larger than the data set ({len(source)} images); "
            f"try --config.batch_size={hosts * (len(source) // hosts)} or less"
        )
    if seed < 0 or start_step < 0 or workers < 0 or threads < 0:
        raise ValueError(
            "seed, start_step, workers and threads must be >= 0, got "
            f"{seed}, {start_step}, {workers}, {threads}"
        )
    # Hashed because grain adds the epoch: seed 1 would be seed 0 one epoch later.
    order_seed, image_seed, step_seed = np.random.SeedSequence(seed).generate_state(3).tolist()
    rows = grain.MapDataset.range(len(source)).shuffle(seed=order_seed).repeat()
    batches = rows.map_with_index(pair).batch(batch_size // hosts)[host::hosts][start_step:]
    slots = None
    if workers and Slots.supported():
        layout = multi_crop.layout(batch_size // hosts)
        slots = Slots(layout, workers, per_worker=2 * threads + 4)
    make = _TrainBatch(
        source, multi_crop, masking, batch_size, image_seed, step_seed, max_pixels, slots
    )
    dataset = batches.map(make).to_iter_dataset(read_options(threads))
    if workers:
        compile_kernels(multi_crop)  # once, and not in every worker
        if not flags.FLAGS.is_parsed():  # grain reads one of its flags; a notebook parses none
            flags.FLAGS.mark_as_parsed()
        options = grain.multiprocessing.MultiprocessingOptions(num_workers=workers)
        dataset = dataset.mp_prefetch(options, worker_init_fn=_init_worker)
    return iterate(dataset, slots)


def build_eval_stream(
    source: ImageSource,
    *,
    image_size: int,
    batch_size: int,
    max_pixels: int,
    host: int = 0,
    hosts: int = 1,
    max_images: int | None = None,
    threads: int = 2,
    view: View = USUAL_VIEW,
    channels: int = 3,
) -> Generator[Batch]:
    """Yields this host's rows of one pass over the source, in order, without randomness.

    Every host yields the same number of batches, all of the same shape.

    Args:
      source: the images.
      image_size: side of the square result in pixels, see `view`.
      batch_size: global batch size.
      max_pixels: larger images count as unreadable.
      host: index of this host (process).
      hosts: number of hosts.
      max_images: number of images to take, evenly spaced over the source; None for all.
      threads: threads that build whole batches ahead.
      view: how an image becomes a square.
      channels: C, of the images.

    Yields:
      "image": [b, S, S, C] uint8; "label": [b] int32, -1 for none; "valid": [b] bool, False for the
      padding of the last batch and for unreadable images (both black, label -1); "unreadable": [b]
      int64 source index of an unreadable image, else -1; "name": [b] str, "" where not valid;
      "reason": [b] str, name and reason of an unreadable image, else "".

    Raises:
      ValueError: if the hosts do not divide the batch or a number is not positive.
    """
    check_division(batch_size, host, hosts)
    count = len(source) if max_images is None else min(max_images, len(source))
    if count < 1 or image_size < 1:
        raise ValueError(
            f"an evaluation needs images and a size: {count} images of {image_size} pixels"
        )
    indices = np.arange(count) * len(source) // count
    padding = -count % batch_size
    table = np.pad(indices, (0, padding), constant_values=-1).reshape(
        -1, hosts, batch_size // hosts
    )
    load = _EvalBatch(source, table[:, host], image_size, max_pixels, view, channels)
    dataset = grain.MapDataset.range(len(table)).map(load)
    return iterate(dataset.to_iter_dataset(read_options(threads)))


@dataclass(frozen=True)
class _TrainBatch:
    """Reads and augments the images of one local batch of [position, source index] pairs."""

    source: ImageSource
    multi_crop: MultiCrop
    masking: Masking | None
    batch_size: int
    image_seed: int
    step_seed: int
    max_pixels: int
    slots: Slots | None

    def __call__(self, pairs: np.ndarray) -> Batch:
        """The batch, or "slot" instead of the crops: the number of the slot that holds them."""
        taken = self.slots.take() if self.slots else None
        slot, batch = taken or (None, allocate(self.multi_crop, len(pairs)))
        crops = batch if slot is None else {"slot": np.array(slot)}
        return {"unreadable": self._fill(batch, pairs), **self._draw_masks(pairs), **crops}

    def _fill(self, batch: Batch, pairs: np.ndarray) -> np.ndarray:
        step = int(pairs[0, 0]) // self.batch_size
        self.multi_crop.begin(batch, generator_of(self.step_seed, step))
        unreadable = np.full(len(pairs), READABLE, np.int64)
        for row, (position, index) in enumerate(pairs.tolist()):
            decode = self.multi_crop.decode
            used, frames, _ = read_readable(self.source, index, self.max_pixels, decode)
            if used != index:
                unreadable[row] = index
            self.multi_crop.fill(batch, row, frames, generator_of(self.image_seed, position))
        return unreadable

    def _draw_masks(self, pairs: np.ndarray) -> Batch:
        if self.masking is None:
            return {}
        step, first_row = divmod(int(pairs[0, 0]), self.batch_size)
        size = self.masking.group_size
        groups = range(first_row // size, (first_row + len(pairs)) // size)
        draws = [self.masking(self.step_seed, step, group) for group in groups]
        return {name: np.concatenate([draw[name] for draw in draws]) for name in draws[0]}


@dataclass(frozen=True)
class _EvalBatch:
    """Reads the images of one row of `indices`, where -1 is padding."""

    source: ImageSource
    indices: np.ndarray
    image_size: int
    max_pixels: int
    view: View
    channels: int

    def __call__(self, step: int) -> Batch:
        indices = self.indices[step]
        side = self.image_size
        batch = {
            "image": np.zeros((len(indices), side, side, self.channels), np.uint8),
            "label": np.full(len(indices), UNLABELED, np.int32),
            "valid": np.zeros(len(indices), bool),
            "unreadable": np.full(len(indices), READABLE, np.int64),
            "name": np.full(len(indices), "", object),
            "reason": np.full(len(indices), "", object),
        }
        for row, index in enumerate(indices.tolist()):
            if index < 0:
                continue
            try:
                image, label, name = read_image(self.source, index, self.max_pixels)
            except UnreadableImageError as error:
                batch["unreadable"][row], batch["reason"][row] = index, str(error)
                continue
            require_channels(image, self.channels)
            batch["image"][row] = self.view(image, side)
            batch["label"][row], batch["valid"][row] = label, True
            batch["name"][row] = name
        return batch


def generator_of(seed: int, count: int) -> np.random.Generator:
    """Counter-based: independent random numbers for every pair."""
    return np.random.Generator(np.random.Philox(key=[seed, count]))


def pair(position: int, index: int) -> np.ndarray:
    """An element of a shuffled range: the position in the stream and the index in the source."""
    return np.array((position, index), np.int64)


def iterate(dataset: grain.IterDataset, slots: Slots | None = None) -> Generator[Batch]:
    """A generator, so that closing or dropping it ends grain's threads and processes at once."""
    iterator = iter(dataset)
    atexit.register(iterator.close)  # while grain's modules still exist
    try:
        for batch in iterator:
            if slots is not None and "slot" in batch:
                batch |= slots.open(int(batch.pop("slot")))
            yield batch
            del batch  # frees the slot as soon as the caller has dropped it, too
    finally:
        atexit.unregister(iterator.close)
        iterator.close()


def read_options(threads: int) -> grain.ReadOptions:
    """Options for a data set of whole batches; grain's usual buffer of 500 fills the memory."""
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)


def _init_worker(index: int, count: int):
    del count
    set_worker_index(index)
    follow_parent()


def check_division(batch_size: int, host: int, hosts: int) -> None:
    """Raises a ValueError if the hosts do not divide the batch."""
    if not 0 <= host < hosts:
        raise ValueError(f"host must be in 0 to {hosts - 1}, got {host}")
    if batch_size < 1 or batch_size % hosts:
        raise ValueError(
            f"batch_size ({batch_size}) must be a positive multiple of the {hosts} hosts; "
            f"try {max(1, batch_size // hosts) * hosts}"
        )
