"""DINO ViT-S/8 on ImageNet-1k, the recipe of the released checkpoint.

Paper: arXiv:2104.14294. Differs from vits16_vanilla in what stands below
(one public copy of args.txt; batch and hardware confirmed by the author).
Expected (official README): 78.3 % k-NN, 79.7 % linear.
Hardware and time: officially 64 V100, 16 images each. Not yet run here on a TPU.

Command:
  dino-jax train --config=vits8_released --workdir=runs/vits8_released \
    --config.data.path=/data/imagenet/train \
    --config.evaluations.knn.train.path=/data/imagenet/train \
    --config.evaluations.knn.test.path=/data/imagenet/val
"""

from ml_collections import ConfigDict

from configs import vits16_vanilla


def get_config() -> ConfigDict:
    config = vits16_vanilla.get_config()
    config.epochs = 800.0
    config.batch_size = 1024
    config.network.backbone.patch_size = 8
    config.network.heads.dino.train_gain = True
    config.network.dtype = "float32"  # officially trained without mixed precision
    config.objectives.dino.teacher_temperature = 0.07
    config.objectives.dino.warmup_teacher_temperature_epochs = 30
    config.augment.crops.local.count = 10
    return config
