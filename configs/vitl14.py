"""DINOv2 ViT-L/14 on ImageNet-22k, the official vitl14.yaml.

Paper: DINOv2, arXiv:2304.07193. Differs from vitl16_short in what stands below. SwiGLU as in that
file, while the released ViT-L/14 has an MLP: set --config.network.backbone.ffn=mlp to continue from
it.
Expected (official README): 82.0 % k-NN, 84.5 % linear after 625,000 steps.
Hardware and time: officially 96 A100 of 80 GB, 3.3 days. Not yet run here on a TPU. By the TPU
compiler the step needs 11.2 GiB per chip on v6e-64 (--config.runtime.fsdp=8) at 32 images per chip.

Command:
  dino-jax train --config=vitl14 --workdir=runs/vitl14 \
    --config.data.path=/data/imagenet22k \
    --config.evaluations.knn.train.path=/data/imagenet/train \
    --config.evaluations.knn.test.path=/data/imagenet/val
"""

from ml_collections import ConfigDict

from configs import vitl16_short


def get_config() -> ConfigDict:
    config = vitl16_short.get_config()
    config.batch_size = 3072
    config.epochs = 500.0
    group = 32  # images, as on one of the official GPUs
    config.augment.crops.local.size = (98, 98)
    config.masking.group_size = group
    config.network.backbone.update(
        patch_size=14, ffn="swiglu", drop_path_rate=0.4, drop_path_group=2 * group
    )
    config.network.heads.dino.out_dim = 131072
    config.network.heads.ibot = ConfigDict(config.network.heads.dino.to_dict())
    config.network.heads.ibot.of = "patches"
    config.network.heads.dino.bottleneck_dim = 384
    config.objectives.dino.centering = config.objectives.ibot.centering = "sinkhorn"
    config.objectives.ibot.head = "ibot"
    config.objectives.koleo.group_size = group
    config.optimizer.update(lr=2e-4, warmup_epochs=80.0, weight_decay_end=0.2, layer_decay=1.0)
    config.roles.teacher.momentum = 0.994
    return config
