"""DINOv2 ViT-S/16 with masks, for 10,000 to 100,000 images of one's own, on a v5e-8 or v6e-4.

Paper: DINOv2, arXiv:2304.07193; registers: arXiv:2309.16588. A starting point, not a tuned recipe:
differs from vitl16_short in what stands below, chosen after what the authors advise for small data
and small batches (dino issues 68 and 224: fewer prototypes, more epochs, a slower teacher). To
start from released weights of DINOv2; small_data is the studied recipe from scratch.
Expected: no figure yet.
Hardware and time: planned for 64 images per v5e chip or 128 per v6e chip. Not yet run on a TPU.

Command (50,000 photos in one folder, no labels):
  dino-jax train --config=vits16_small_data --workdir=runs/vits16_small_data \
    --config.data.path=/data/photos
"""

from ml_collections import ConfigDict

from configs import vitl16_short


def get_config() -> ConfigDict:
    config = vitl16_short.get_config()
    config.batch_size = 512
    config.epochs = 300.0
    config.steps_per_epoch = 0  # an epoch is one pass over the images
    config.augment.blur = "as_documented"
    config.network.backbone.update(
        size="small", registers=4, position_kernel="antialiased", drop_path_rate=0.1
    )
    config.network.heads.dino.out_dim = 8192
    config.objectives.dino.centering = config.objectives.ibot.centering = "sinkhorn"
    config.optimizer.update(lr=1e-3, min_lr=1e-5)
    config.roles.teacher.momentum = 0.996
    return config
