"""SimDINO ViT-B/16 on ImageNet-1k: DINO without prototypes, temperatures and centering.

Paper: Simplifying DINO via Coding Rate Regularization, arXiv:2502.10385. DINO's views, teacher and
optimizer; the head ends in unit vectors, whose cosines grow with the teacher's, and whose coding
rate grows so that they do not collapse. The covariance is that of 64 images, those of a GPU in the
official run: the loss does not depend on the number of devices.
Expected (official README): 74.9 % k-NN, 77.3 % linear after 100 epochs.
Hardware and time: officially 8 GPUs, 1.5 days. Not yet run here on a TPU.

Command:
  dino-jax train --config=vitb16_simdino --workdir=runs/vitb16_simdino \
    --config.data.path=/data/imagenet/train \
    --config.evaluations.knn.train.path=/data/imagenet/train \
    --config.evaluations.knn.test.path=/data/imagenet/val
"""

from ml_collections import ConfigDict

from configs import vits16_vanilla
from dino_jax.config.defaults import to_config_dict
from dino_jax.models import bottleneck_head


def use_simdino(config: ConfigDict, group_size: int) -> None:
    """Puts SimDINO's loss and head in the place of DINO's; `group_size` as in the objective."""
    config.objectives = ConfigDict(
        {"simdino": dict(kind="simdino", head="dino", epsilon=0.05, group_size=group_size)}
    )
    config.network.heads = ConfigDict({"dino": to_config_dict(bottleneck_head.Config())})
    config.optimizer.freeze_last_layer_epochs = 0.0


def get_config() -> ConfigDict:
    config = vits16_vanilla.get_config()
    use_simdino(config, group_size=64)
    config.network.backbone.size = "base"
    config.augment.crops.local.count = 10
    return config
