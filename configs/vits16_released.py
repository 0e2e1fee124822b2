"""DINO ViT-S/16 on ImageNet-1k, the recipe of the released checkpoint.

Paper: arXiv:2104.14294. Differs from vits16_vanilla in what stands below
(three public copies of args.txt agree).
Expected (official README): 74.5 % k-NN, 77.0 % linear.
Hardware and time: officially 16 V100, 64 images each. Not yet run here on a TPU.

Command:
  dino-jax train --config=vits16_released --workdir=runs/vits16_released \
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
    config.network.heads.dino.train_gain = True
    config.network.dtype = "float32"  # officially trained without mixed precision
    config.objectives.dino.teacher_temperature = 0.07
    config.objectives.dino.warmup_teacher_temperature_epochs = 30
    config.optimizer.min_lr = 1e-5
    config.optimizer.clip_grad = 0.0
    crops = config.augment.crops
    crops.global_1.scale = crops.global_2.scale = (0.25, 1.0)
    crops.local.scale = (0.05, 0.25)
    crops.local.count = 10
    return config
