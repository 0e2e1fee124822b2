"""DINOv3's ViT-7B/16, first stage: a million steps at constant rates.

Paper: DINOv3, arXiv:2508.10104, Sections 3 and 5. Differs from vitl16_dinov3 in what stands below.
Activations are bfloat16, where the official run had products in fp8. Where code and paper disagree,
the line says so.
Expected: no figure of this stage by itself; the released model, after three stages on LVD-1689M,
which is not public: 90.4 % ImageNet-ReaL, 55.9 mIoU on ADE20k (official README).
Hardware and time: officially 61,440 H100 hours for all stages. Not yet run on a TPU; docs/dinov3.md
has what it takes of memory and time at least.

Command:
  dino-jax train --config=vit7b16_dinov3 --workdir=runs/vit7b16_dinov3 \
    --config.data.path=/data/images \
    --config.evaluations.knn.train.path=/data/imagenet/train \
    --config.evaluations.knn.test.path=/data/imagenet/val
"""

from ml_collections import ConfigDict

from configs import vitl16_dinov3


def constant_after(start: float, value: float, epochs: float) -> ConfigDict:
    """A schedule that is constant after a line."""
    parts = dict(start=start, peak=value, end=value, warmup_epochs=epochs, cosine_epochs=0.0)
    return ConfigDict(parts)


def get_config() -> ConfigDict:
    config = vitl16_dinov3.get_config()
    config.batch_size = 4096
    config.steps_per_epoch = 1000
    config.epochs = 1000.0
    group = 16  # images, as on one of the official GPUs
    crops = config.augment.crops
    for crop in crops.values():
        crop.flip = 0.0
    crops.global_1.size = crops.global_2.size = (256, 256)
    crops.local.size = (112, 112)
    config.masking.group_size = group

    config.network.backbone.update(
        size="7b",
        ffn="swiglu64",
        mlp_ratio=3.0,  # 2 / 3 of it in each half of the gate: 8192
        registers=4,
        qkv_bias=False,
        norm_epsilon=1e-5,
        local_cls_norm=True,
        drop_path_rate=0.4,
        drop_path_group=2 * group,
        image_size=(256, 256),
        remat="full",
        scan_unroll=1,
    )
    config.network.backbone.rope.rescale = 2.0
    config.network.heads.dino.update(out_dim=262144, hidden_dim=8192, bottleneck_dim=512)
    config.network.heads.ibot.update(out_dim=98304, hidden_dim=4096, bottleneck_dim=384)
    for name in ("dino", "ibot"):
        config.objectives[name].parts.teacher_temperature = constant_after(0.04, 0.07, 100.0)
    config.objectives.koleo.group_size = group

    config.optimizer.parts.lr = constant_after(0.0, 2e-4, 100.0)  # x the root of 4096 / 1024
    config.optimizer.update(
        weight_decay=0.04,
        weight_decay_end=0.04,
        layer_decay=0.98,
        clip_grad=30.0,
        freeze_last_layer_epochs=5.0,
    )
    config.optimizer.adamw.b2 = 0.99
    config.roles.teacher.update(momentum=0.994, momentum_end=0.994)  # the released config's
    config.image_size = 256
    config.runtime.fsdp = 64  # state: 4 float32 copies of 6.7 billion parameters and large heads
    return config
