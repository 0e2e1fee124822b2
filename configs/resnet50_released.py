"""DINO ResNet-50 on ImageNet-1k, the recipe of the released checkpoint.

Paper: arXiv:2104.14294. Differs from vits16_vanilla in what stands below (one public copy of
args.txt; the batch was confirmed by the author in dino issue 133).
Expected (official README): 67.5 % k-NN, 75.3 % linear.
Hardware and time: officially 80 V100, 51 images each. Not yet run here on a TPU. 4080 images do not
split over 32 or more TPU chips: take --config.batch_size=4096 there.

Command:
  dino-jax train --config=resnet50_released --workdir=runs/resnet50_released \
    --config.data.path=/data/imagenet/train \
    --config.evaluations.knn.train.path=/data/imagenet/train \
    --config.evaluations.knn.test.path=/data/imagenet/val
"""

from ml_collections import ConfigDict

from configs import vits16_vanilla
from dino_jax.config.defaults import to_config_dict
from dino_jax.models import resnet


def get_config() -> ConfigDict:
    config = vits16_vanilla.get_config()
    config.epochs = 800.0
    config.batch_size = 4080
    config.network.dtype = "float32"  # officially trained without mixed precision
    config.network.backbone = to_config_dict(resnet.Config())
    config.network.heads.dino.update(out_dim=60000, batch_norm=True)
    config.objectives.dino.teacher_temperature = 0.07
    config.objectives.dino.warmup_teacher_temperature_epochs = 50
    config.optimizer.update(
        kind="lars", lr=0.3, min_lr=0.0048, weight_decay=1e-6, weight_decay_end=1e-6, clip_grad=0.0
    )
    crops = config.augment.crops
    crops.global_1.scale = crops.global_2.scale = (0.14, 1.0)
    crops.local.scale = (0.05, 0.14)
    crops.local.count = 6
    return config
