"""Training batches with labels and one random crop of each image, for classifiers."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial

import grain
import numpy as np
from PIL import Image

from dino_jax.data.augment import CropConfig, CropParameters, sample_crop_parameters
from dino_jax.data.decoding import require_channels
from dino_jax.data.pipeline import (
    READABLE,
    check_division,
    generator_of,
    iterate,
    pair,
    read_options,
)
from dino_jax.data.reading import read_readable
from dino_jax.data.resampling import resize_pixels
from dino_jax.data.slots import Batch
from dino_jax.data.sources import ImageSource

# torchvision.transforms.RandomResizedCrop and RandomHorizontalFlip
PLAIN_CROP = CropConfig(scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), flip=0.5, jitter=0.0, blur=0.0)

Draw = Callable[[np.random.Generator, CropConfig, int, int], CropParameters]
Distort = Callable[[np.random.Generator, np.ndarray], np.ndarray]


def keep(rng: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
    """The pixels as they are."""
    return pixels


RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def build_labelled_stream(
    source: ImageSource,
    *,
    seed: int,
    image_size: int,
    resampling: str,
    batch_size: int,
    max_pixels: int,
    host: int = 0,
    hosts: int = 1,
    threads: int = 2,
    channels: int = 3,
    crop: CropConfig = PLAIN_CROP,
    draw: Draw = sample_crop_parameters,
    distort: Distort = keep,
) -> Generator[Batch]:
    """Yields this host's rows of an endless, shuffled sequence of batches.

    Epochs follow each other without a gap: each shows every image once, in its own order, and a
    batch may span two. The crops are torchvision's RandomResizedCrop and RandomHorizontalFlip, by
    default with their default numbers. An unreadable image is replaced by the next readable one.

    Args:
      source: the images.
      seed: seed of order and crops, >= 0.
      image_size: side of the crops in pixels.
      resampling: "bilinear" or "bicubic".
      batch_size: global batch size.
      max_pixels: larger images count as unreadable.
      host: index of this host (process).
      hosts: number of hosts; host h gets rows h * b to (h + 1) * b, b = batch_size // hosts.
      threads: threads that build whole batches ahead.
      channels: C, of the images.
      crop: area, ratio and flip of the crops.
      draw: draws a crop, a value of `DRAWS`.
      distort: changes the pixels of each crop, [S, S, C] uint8 to the same.

    Yields:
      "image": [b, S, S, C] uint8; "label": [b] int32; "unreadable": [b] int32 source index of the
      image that had to be replaced, else -1.

    Raises:
      ValueError: if the hosts do not divide the batch, or (later, from the iterator) an image
        has no label or 100 images in a row are unreadable.
    """
    check_division(batch_size, host, hosts)
    order_seed, image_seed = np.random.SeedSequence(seed).generate_state(2).tolist()
    rows = grain.MapDataset.range(len(source)).shuffle(seed=order_seed).repeat()
    batches = rows.map_with_index(pair).batch(batch_size // hosts)[host::hosts]
    load = _CropBatch(
        source,
        partial(
            random_crop, size=image_size, resampling=RESAMPLING[resampling], config=crop, draw=draw
        ),
        distort,
        image_size,
        image_seed,
        max_pixels,
        channels,
    )
    return iterate(batches.map(load).to_iter_dataset(read_options(threads)))


def random_crop(
    image: np.ndarray,
    rng: np.random.Generator,
    size: int,
    resampling: Image.Resampling,
    config: CropConfig = PLAIN_CROP,
    draw: Draw = sample_crop_parameters,
) -> np.ndarray:
    """A random part of an image, resized and perhaps mirrored.

    Args:
      image: [H, W, C] uint8.
      rng: random generator of the crop.
      size: S, side of the result in pixels.
      resampling: resampling of the resize; Pillow's, with antialiasing.
      config: area, ratio and flip of the crop.
      draw: draws it.

    Returns:
      [S, S, C] uint8.
    """
    chosen = draw(rng, config, *image.shape[:2])
    left, top, right, bottom = chosen.box
    crop = resize_pixels(image[top:bottom, left:right], (size, size), resampling)
    return crop[:, ::-1] if chosen.flip else crop


def draw_clamped(
    rng: np.random.Generator, config: CropConfig, height: int, width: int
) -> CropParameters:
    """A crop of MAE's linear probe: drawn once, and sides that are too long are cut.

    Args:
      rng: generator, advanced by five uniform numbers.
      config: area, ratio and flip of the crop.
      height: height of the image, in pixels.
      width: width of the image, in pixels.
    """
    area, ratio, top, left, flip = rng.random(5).tolist()
    low, high = config.scale
    area = height * width * (low + area * (high - low))
    low, high = np.log(config.ratio)
    ratio = float(np.exp(low + ratio * (high - low)))
    box_width = min(max(round((area * ratio) ** 0.5), 1), width)
    box_height = min(max(round((area / ratio) ** 0.5), 1), height)
    top, left = int(top * (height - box_height + 1)), int(left * (width - box_width + 1))
    box = (left, top, left + box_width, top + box_height)
    return CropParameters(box, flip < config.flip, (), False, None, False)


DRAWS: dict[str, Draw] = {"tries": sample_crop_parameters, "clamped": draw_clamped}


@dataclass(frozen=True)
class _CropBatch:
    """Reads and crops the images of one local batch of [position, source index] pairs."""

    source: ImageSource
    crop: Callable[[np.ndarray, np.random.Generator], np.ndarray]
    distort: Distort
    image_size: int
    seed: int
    max_pixels: int
    channels: int

    def __call__(self, pairs: np.ndarray) -> Batch:
        size = self.image_size
        batch = {
            "image": np.zeros((len(pairs), size, size, self.channels), np.uint8),
            "label": np.zeros(len(pairs), np.int32),
            "unreadable": np.full(len(pairs), READABLE, np.int32),
        }
        for row, (position, index) in enumerate(pairs.tolist()):
            used, frames, label = read_readable(self.source, index, self.max_pixels)
            if label < 0:
                raise ValueError(
                    f"{self.source.name(used)} has no label; every training image needs a class"
                )
            if used != index:
                batch["unreadable"][row] = index
            require_channels(frames[0], self.channels)
            rng = generator_of(self.seed, position)
            batch["image"][row] = self.distort(rng, self.crop(frames[0], rng))
            batch["label"][row] = label
        return batch
