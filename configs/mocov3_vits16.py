"""MoCo v3 ViT-S/16 on ImageNet-1k, the official README's run of 300 epochs.

Paper: An Empirical Study of Training Self-Supervised Vision Transformers, arXiv:2104.02057. This
ViT-S has 12 attention heads of 32 channels, not 6. ViT-B/16: --config.network.backbone.size=base.
Activations are bfloat16 where the official run used float16. With the stem of convolutions:
--config.network.backbone.stem=convolutions --config.network.backbone.depth=11
--config.optimizer.fixed="('pos_embed',)".
Expected (official README): 73.2 % linear; ViT-B/16 76.7 %; of the student, which is evaluated.
Hardware and time: not yet run here.

Command:
  dino-jax train --config=mocov3_vits16 --workdir=runs/mocov3_vits16 \
    --config.data.path=/data/imagenet/train \
    --config.evaluations.knn.train.path=/data/imagenet/train \
    --config.evaluations.knn.test.path=/data/imagenet/val
"""

from ml_collections import ConfigDict

from configs import vits16_vanilla


def get_config() -> ConfigDict:
    config = vits16_vanilla.get_config()
    config.batch_size = 4096
    config.epochs = 300.0

    crops = config.augment.crops
    del crops.local
    for crop in crops.values():
        crop.update(scale=(0.08, 1.0), resize="bilinear")  # torchvision's default

    config.network.backbone.update(
        num_heads=12,
        position="rows_first",
        first_kernels="xavier_split",
        token_std=1e-6,
        drop_path_rate=0.0,
    )
    mlp = dict(kind="mlp", hidden_dim=4096, out_dim=256, last_norm="plain")
    config.network.heads = ConfigDict(
        dict(
            projector=dict(mlp, of="cls", layers=3),
            predictor=dict(mlp, of="projector", layers=2),
        )
    )
    config.objectives = ConfigDict(dict(mocov3=dict(kind="mocov3", temperature=0.2)))
    config.roles.student.update(sees=("global",), masked="no", drop_path=False)
    config.roles.teacher.update(
        leaves_out=("predictor",), momentum=0.99, momentum_end=1.0, momentum_delay=1
    )
    config.evaluated = "student"
    config.evaluations.proxies.of = ("student", "teacher")
    config.optimizer.update(
        lr=1.5e-4,  # x 4096 / 256 = 2.4e-3
        min_lr=0.0,
        warmup_epochs=40.0,
        warmup_peak="after",
        weight_decay=0.1,
        weight_decay_end=0.1,
        decayed="all",
        clip_grad=0.0,
        freeze_last_layer_epochs=0.0,
        fixed=("patch_embed", "pos_embed"),
    )
    return config
