"""Some images of a config with their crops, as the network will see them."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from dino_jax.data.contact_sheet import Row, View, draw_sheet
from dino_jax.data.decode import UnreadableImageError
from dino_jax.data.decoding import build_decoding
from dino_jax.data.multi_crop import MultiCrop, apply_crop, build_multi_crop
from dino_jax.data.reading import read_image
from dino_jax.data.sources import ImageSource, build_source

SPARE = 100  # unreadable images that are replaced


def draw_preview(config: Any, title: str, images: int, say: Callable[[str], object]) -> Image.Image:
    """Draws the contact sheet of a config.

    Args:
      config: config with `seed`, `data`, `max_pixels` and `augment`.
      title: the headline.
      images: rows of the sheet; fewer if the source has fewer readable images.
      say: takes a line about every image that cannot be read.

    Raises:
      ValueError: if source or augmentation can't be built, or none of the images is readable.
      OSError: if the source's files are missing.
    """
    source, decoding = build_source(config.data), build_decoding("config.data", config.data)
    multi_crop = build_multi_crop(config.augment, decoding.channels)
    rng = np.random.default_rng(config.seed)
    readable = pick_images(source, images, config.max_pixels, rng, say)
    rows = [
        Row(image, source.name(index), draw_views(image, multi_crop, rng))
        for index, image in itertools.islice(readable, images)
    ]
    if not rows:
        raise ValueError("none of the chosen images can be read")
    about = f"{len(source):,} images, {config.data.kind}, {decoding.describe()}"
    return draw_sheet(rows, title, about)


def pick_images(
    source: ImageSource,
    images: int,
    max_pixels: int,
    rng: np.random.Generator,
    say: Callable[[str], object],
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields index and [H, W, 3] uint8 pixels of random images; names those that are unreadable."""
    candidates = rng.choice(len(source), min(images + SPARE, len(source)), replace=False)
    for index in candidates.tolist():
        try:
            yield index, read_image(source, index, max_pixels)[0]
        except UnreadableImageError as error:
            say(f"unreadable image, left out: {error}")


def draw_views(image: np.ndarray, multi_crop: MultiCrop, rng: np.random.Generator) -> list[View]:
    """The crops of one image with their parameters, group by group.

    Args:
      image: [H, W, 3] uint8.
      multi_crop: the augmentation.
      rng: the randomness of this image.
    """
    drawn = multi_crop.sample(rng, [image.shape[:2]])
    return [
        View(name, drawn[crop.key], apply_crop(image, drawn[crop.key], crop.config))
        for name, group in multi_crop.groups.items()
        for crop in group.crops
    ]
