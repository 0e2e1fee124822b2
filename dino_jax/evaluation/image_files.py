"""Features of image files of any shapes, on all devices of all processes."""

import collections
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from dino_jax.data.decode import MAX_PIXELS, UnreadableImageError, read_image_file
from dino_jax.devices.sharding import batch_sharding, replicated, shard_batch
from dino_jax.evaluation.frozen import Take
from dino_jax.evaluation.result import MOST_NAMED
from dino_jax.evaluation.sharing import counted, from_all
from dino_jax.foreign.files import MAX_IMAGE_BYTES, read_bytes
from dino_jax.foreign.names import printable
from dino_jax.foreign.pictures import opened_picture
from dino_jax.weights.model import Model

THREADS = min(16, os.cpu_count() or 1)  # that decode
MOST_WAITING = 512  # images in memory that wait for a full batch

Prepare = Callable[[int, np.ndarray], Sequence[np.ndarray]]


class Embedded(NamedTuple):
    """Features of V views of each of N images.

    Attributes:
      features: [V, N, D] float32; zeros where an image could not be read.
      readable: bool [N].
    """

    features: np.ndarray
    readable: np.ndarray


class BatchEmbedder:
    """A compiled forward pass over batches of any number of images on this process's devices."""

    def __init__(self, model: Model, take: Take):
        """Compiles `take(network, variables, images [B, H, W, C])`, once per shape.

        Args:
          model: model with the network and the variables.
          take: returns an array whose first axis is B.
        """
        devices = np.array(jax.local_devices()).reshape(-1, 1)
        self._mesh = Mesh(devices, ("data", "fsdp"))
        self._variables = jax.device_put(model.variables, replicated(self._mesh))
        self._apply = jax.jit(lambda variables, images: take(model.network, variables, images))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """[B, H, W, C] images to [B, ...] float32."""
        padding = -len(images) % self._mesh.size
        padded = np.concatenate([images, np.repeat(images[-1:], padding, axis=0)])
        batch = shard_batch({"image": padded}, batch_sharding(self._mesh))["image"]
        return np.asarray(self._apply(self._variables, batch), np.float32)[: len(images)]


def normalize_pixels(pixels: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """[..., C] numbers in [0, 255] to float32 of zero mean and unit variance."""
    scaled = pixels.astype(np.float32) / 255.0
    return (scaled - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)


def cut_to_patches(image: np.ndarray, patch_size: int) -> np.ndarray:
    """Cuts off incomplete patches at the right and at the bottom, as a ViT does.

    Args:
      image: [H, W, C].
      patch_size: patch size of the backbone.

    Raises:
      ValueError: if nothing is left.
    """
    height, width = (side // patch_size * patch_size for side in image.shape[:2])
    if min(height, width) < patch_size:
        raise ValueError(
            f"an image of {image.shape[0]} x {image.shape[1]} pixels is smaller than a patch of "
            f"{patch_size}; give a larger --imsize"
        )
    return image[:height, :width]


def read_pixels(path: str | os.PathLike) -> np.ndarray:
    """Reads an image file as [H, W, 3] uint8.

    Raises:
      FileNotFoundError: if it does not exist.
      UnreadableImageError: if it is not an image.
    """
    return read_image_file(path, MAX_PIXELS)


def read_values(path: str | os.PathLike) -> tuple[str, np.ndarray]:
    """Pillow's mode of an image file, and its numbers as they are stored.

    Raises:
      OSError: if it does not exist.
      UnreadableImageError: if it is not an image.
    """
    try:
        with opened_picture(read_bytes(path, MAX_IMAGE_BYTES), MAX_PIXELS) as image:
            return image.mode, np.array(image)
    except UnreadableImageError as error:
        raise UnreadableImageError(f"{path}: {error}") from error


def embed_files(
    files: Sequence[str], prepare: Prepare, embedder: BatchEmbedder, batch_size: int, title: str
) -> Embedded:
    """Embeds all images; every process embeds its share, and all get everything.

    Views of equal shape are batched, regardless of the order of their files.

    Args:
      files: N paths, local or gs://.
      prepare: number of a file and its pixels [H, W, 3] uint8 to its V views, each [h, w, 3].
      embedder: [B, h, w, 3] to [B, D].
      batch_size: B, to which the last batch of a shape is padded.
      title: title of the progress that process 0 shows.

    Raises:
      OSError: if a file does not exist.
      ValueError: if no image can be read.
    """
    mine = range(jax.process_index(), len(files), jax.process_count())
    rows: dict[tuple[int, int], np.ndarray] = {}
    buckets = collections.defaultdict(list)

    def flush(bucket: list) -> None:
        places, views = zip(*bucket, strict=True)
        images = np.stack([*views, *[views[-1]] * (batch_size - len(views))])
        rows.update(zip(places, embedder(images), strict=False))
        bucket.clear()

    for index, views in counted(_read_ahead(files, mine, prepare), title, len(mine)):
        for view, image in enumerate(views or ()):
            bucket = buckets[image.shape]
            bucket.append(((view, index), image))
            if len(bucket) == batch_size:
                flush(bucket)
        if sum(map(len, buckets.values())) > MOST_WAITING:
            flush(max(buckets.values(), key=len))
    for bucket in buckets.values():
        if bucket:
            flush(bucket)
    return _gather(rows, len(files))


def _read_ahead(
    files: Sequence[str], indices: Iterable[int], prepare: Prepare
) -> Iterator[tuple[int, Sequence[np.ndarray] | None]]:
    """The views of each file, in order; None for a file that is not an image."""

    def read(index: int) -> tuple[int, Sequence[np.ndarray] | None]:
        try:
            pixels = read_pixels(files[index])
        except UnreadableImageError:
            return index, None
        return index, prepare(index, pixels)

    with ThreadPoolExecutor(THREADS) as pool:
        running: collections.deque = collections.deque()
        for index in indices:
            running.append(pool.submit(read, index))
            if len(running) > 2 * THREADS:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _gather(rows: dict[tuple[int, int], np.ndarray], count: int) -> Embedded:
    """The rows of all processes by (view, index)."""
    sizes = [1 + max(view for view, _ in rows), len(next(iter(rows.values())))] if rows else [0, 0]
    views, dim = from_all(np.array(sizes)).max(axis=0)
    if not dim:
        raise ValueError(f"none of the {count} images can be read")
    processes = jax.process_count()
    share = -(-count // processes)
    features, readable = np.zeros((views, share, dim), np.float32), np.zeros(share, bool)
    for (view, index), row in rows.items():
        features[view, index // processes], readable[index // processes] = row, True
    # File i is row i // processes of process i % processes.
    features = np.moveaxis(from_all(features), 0, 2).reshape(views, -1, dim)
    readable = np.moveaxis(from_all(readable), 0, 1).reshape(-1)
    return Embedded(features[:, :count], readable[:count])


def pad_color(model: Model) -> np.ndarray:
    """[3] uint8 that the network normalizes to about 0."""
    return np.rint(255 * np.asarray(model.network.mean)).astype(np.uint8)


def name_files(files: Sequence[str], readable: np.ndarray) -> dict[str, Any]:
    """Number of unreadable files and the names of the first ones, for a result."""
    lost = [files[index] for index in np.flatnonzero(~readable).tolist()]
    return {"count": len(lost), "names": [printable(name) for name in lost[:MOST_NAMED]]}
