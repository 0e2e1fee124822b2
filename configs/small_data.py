"""DINO's loss with DINOv2's targets for 1,000 to 100,000 images, from scratch, without a knob.

Paper: DINO, arXiv:2104.14294; DINOv2, arXiv:2304.07193; the first weights are those of MoCo v3,
arXiv:2104.02057. docs/small_data.md tells where every choice comes from. Sizes are those of
`dino_jax.run.sensible.choose`. An argument after a colon is the side of the images in pixels:
small_data:32 and small_data:64 have a small network for a CPU; more, as without argument, is a
ViT-S/16 for an accelerator. An epoch is 100 steps whatever the data; warm-ups and the memory of the
teacher follow --config.epochs.
Expected: docs/small_data.md for images of 32 pixels; no figure for larger ones yet.
Hardware and time: small_data:32 takes about 22 minutes of one CPU core, reckoned from shorter runs;
small_data is for an accelerator of 16 GiB and has not yet run on one.

Command (photos in one folder, no labels):
  dino-jax train --config=small_data --workdir=runs/small_data --config.data.path=/data/photos
"""

from ml_collections import ConfigDict

from configs import vits16_vanilla
from dino_jax.run.sensible import GROUP, STEPS_PER_EPOCH, choose

IMAGES = 10_000  # for which the run is sized; `choose` knows other numbers
LARGEST_ON_CPU = 64  # pixels


def get_config(side: str = "224") -> ConfigDict:
    pixels = read_side(side)
    config = vits16_vanilla.get_config()
    config.steps_per_epoch = STEPS_PER_EPOCH
    for crop in config.augment.crops.values():
        crop.update(flip=0.5, grayscale=0.0, saturation=0.0, hue=0.0, solarize=0.0)
    for name in ("global_1", "global_2"):
        config.augment.crops[name].scale = (0.6, 1.0)
    config.augment.crops.local.scale = (0.3, 0.6)

    config.network.backbone.update(
        position="rows_first",
        position_kernel="antialiased",
        first_kernels="xavier_split",
        token_std=1e-6,
        registers=4,
        layer_scale=1.0,
        drop_path_rate=0.0,
    )
    config.network.heads.dino.out_dim = 256
    config.objectives.dino.centering = "sinkhorn"
    config.objectives.koleo = ConfigDict(dict(kind="koleo", weight=0.1, group_size=GROUP))
    config.optimizer.update(
        reference_batch=256, lr_scaling="sqrt", weight_decay=0.04, weight_decay_end=0.04
    )
    accelerator = pixels > LARGEST_ON_CPU
    choices = choose(IMAGES, pixels, accelerator=accelerator)
    config.update_from_flattened_dict({one.option: one.value for one in choices})
    config.runtime.workers = 8 if accelerator else 0
    follow_length(config)
    return config


def read_side(side: str) -> float:
    """The argument of the config in pixels."""
    try:
        return float(side)
    except ValueError:
        raise ValueError(
            f"small_data:SIDE takes pixels, such as small_data:64, got {side!r}"
        ) from None


def follow_length(config: ConfigDict) -> None:
    """Lengths inside the run as parts of it, also when --config.epochs changes."""
    epochs = config.get_ref("epochs")
    config.optimizer.warmup_epochs = epochs * 0.1
    config.optimizer.freeze_last_layer_epochs = epochs * 0.02
    memory = epochs * (STEPS_PER_EPOCH / 20)  # steps: a twentieth of the run
    config.roles.teacher.momentum = 1.0 - 1.0 / memory
    config.roles.teacher.momentum_end = 1.0 - 1.0 / memory
    for name in ("knn", "proxies"):
        config.evaluations[name].every_epochs = epochs * 0.1
    for name in ("kind", "path", "split"):  # the label-free measures look at the training images
        config.evaluations.proxies.images[name] = config.data.get_ref(name) + ""
    config.evaluations.proxies.max_images = 1000
