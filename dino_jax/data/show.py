"""Draws what the network will see, to be looked at before a run.

  python -m dino_jax.data.show --config=configs/vits16_vanilla.py --out=sheet.png \
    --config.data.path=/data/imagenet/train [--images=8] [--config.seed=1]

One row per image: the original with the box of every crop, then the crops themselves after all
augmentation, framed in the color of their box. Parameters come from the sampler of the training
stream; images and crops depend on config.seed only.
"""

import itertools
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import app, flags, logging
from etils import epath
from ml_collections import config_flags
from PIL import Image

from dino_jax.command_line import UsageError, fail, mendable
from dino_jax.data.augment import sample_crop_parameters
from dino_jax.data.contact_sheet import Row, View, draw_sheet
from dino_jax.data.decode import UnreadableImageError
from dino_jax.data.multi_crop import MultiCrop, apply_crop, build_multi_crop
from dino_jax.data.pipeline import read_image
from dino_jax.data.sources import ImageSource, build_source

SPARE = 100  # unreadable images that are replaced

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file.", lock_config=True)
_OUT = flags.DEFINE_string("out", None, "PNG file to write, local or gs://.")
_IMAGES = flags.DEFINE_integer("images", 8, "How many images.", lower_bound=1)


def show(config: Any, title: str, images: int) -> Image.Image:
    """Draws the contact sheet of a config.

    Args:
      config: with `seed`, `data`, `max_pixels` and `augment`.
      title: the headline.
      images: rows of the sheet; fewer if the source has fewer readable images.

    Raises:
      ValueError: if source or augmentation can't be built, or none of the images is readable.
      OSError: if the source's files are not there.
    """
    source, multi_crop = build_source(config.data), build_multi_crop(config.augment)
    rng = np.random.default_rng(config.seed)
    readable = pick_images(source, images, config.max_pixels, rng)
    rows = [
        Row(image, source.name(index), draw_views(image, multi_crop, rng))
        for index, image in itertools.islice(readable, images)
    ]
    if not rows:
        raise ValueError("none of the chosen images can be read")
    return draw_sheet(rows, title, f"{len(source):,} images, {config.data.kind}")


def pick_images(
    source: ImageSource, images: int, max_pixels: int, rng: np.random.Generator
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields index and [H, W, 3] uint8 pixels of random images; names those that are unreadable."""
    candidates = rng.choice(len(source), min(images + SPARE, len(source)), replace=False)
    for index in candidates.tolist():
        try:
            yield index, read_image(source, index, max_pixels)[0]
        except UnreadableImageError as error:
            print(f"unreadable image, left out: {error}", file=sys.stderr)


def draw_views(image: np.ndarray, multi_crop: MultiCrop, rng: np.random.Generator) -> list[View]:
    """The crops of one image with their parameters, global ones first.

    Args:
      image: [H, W, 3] uint8.
      multi_crop: the augmentation.
      rng: the randomness of this image.
    """
    views = []
    for is_global, configs in ((True, multi_crop.global_crops), (False, multi_crop.local_crops)):
        for config in configs:
            for _ in range(config.count):
                parameters = sample_crop_parameters(rng, config, *image.shape[:2])
                views.append(View(is_global, parameters, apply_crop(image, parameters, config)))
    return views


def parse_flags(argv: list[str]) -> list[str]:
    """Flags parser for `absl.app.run`: a wrong command line ends with one clear line."""
    try:
        rest = flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:  # ml_collections, for a name that does not exist
        fail(f"the config has no {error.args[0]}".partition("\n")[0])
    except (OSError, TypeError, ValueError, flags.Error) as error:
        fail(error)
    missing = [f"--{name}" for name in ("config", "out") if not flags.FLAGS[name].value]
    if missing:
        fail(
            f"missing {' and '.join(missing)}; a command looks like python -m dino_jax.data.show "
            "--config=configs/quickstart.py --out=sheet.png"
        )
    return rest


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)
    title = config_flags.get_config_filename(flags.FLAGS["config"])
    out = epath.Path(_OUT.value or "").expanduser()
    try:
        with mendable():
            sheet = show(_CONFIG.value, title, _IMAGES.value)
            with out.open("wb") as file:
                sheet.save(file, "PNG")
    except UsageError as error:
        fail(error)
    print(f"{out}: {sheet.width} x {sheet.height} pixels")


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
