"""DINO's loss with DINOv2's targets for 1,000 to 100,000 images, from scratch, without a knob.

Paper: DINO, arXiv:2104.14294; DINOv2, arXiv:2304.07193. docs/small_data.md tells what every choice
comes from. Sizes are those of `dino_jax.run.sensible.choose`; an argument after a colon is the side
of the images in pixels: up to 64 a small network for a CPU, beyond that, as without argument, a
ViT-S/16 for one accelerator. An epoch is 100 steps whatever the data; warm-ups and the memory of
the teacher follow --config.epochs.
Expected: docs/small_data.md for images of 32 pixels; no figure for larger ones yet.
Hardware and time: small_data:32 on 2 CPU cores about 13 minutes; small_data on one accelerator of
16 GiB, planned, not yet run.

Command (photos in one folder, no labels):
  dino-jax train --config=small_data --workdir=runs/small_data --config.data.path=/data/photos
"""

from ml_collections import ConfigDict

from configs import vitl16_short
from dino_jax.run.sensible import GROUP, STEPS_PER_EPOCH, choose

IMAGES = 10_000  # that sizes and length are made for, unless `dino-jax train PHOTOS` counts them
LARGEST_ON_CPU = 64  # pixels


def get_config(side: str = "224") -> ConfigDict:
    config = vitl16_short.get_config()
    config.steps_per_epoch = STEPS_PER_EPOCH
    config.augment.blur = "as_documented"
    set_views(config)
    set_network(config)
    set_losses(config)
    accelerator = float(side) > LARGEST_ON_CPU
    for one in choose(IMAGES, float(side), accelerator=accelerator):
        config.update_from_flattened_dict({one.option: one.value})
    set_lengths(config)
    return config
