"""MAE ViT-B/16 on ImageNet-1k: the pixels of 75 % of the patches from the other 25 %.

Paper: Masked Autoencoders Are Scalable Vision Learners, arXiv:2111.06377. Everything as in the
official pre-training: one crop of 224 pixels with a flip and no colors, fixed positions, a decoder
of 8 blocks and 512 channels, normalized pixels as targets, AdamW at 1.5e-4 x batch / 256; but for
bfloat16 activations where the official run used float16.
Expected (official README): 83.6 % fine-tuned and 68.0 % linear after 1600 epochs. Frozen features
are weak by design: k-NN is far below DINO's (11 % after 100 epochs, by lightly's benchmark).
Hardware and time: officially 64 V100; 42 hours for 800 epochs of ViT-L. Not yet run here on a TPU.

Command:
  dino-jax train --config=vitb16_mae --workdir=runs/vitb16_mae \
    --config.data.path=/data/imagenet/train \
    --config.evaluations.knn.train.path=/data/imagenet/train \
    --config.evaluations.knn.test.path=/data/imagenet/val
"""

from ml_collections import ConfigDict

from configs import vits16_vanilla
from dino_jax.config.defaults import to_config_dict
from dino_jax.models import decoder


def use_mae(config: ConfigDict) -> None:
    """Puts MAE in the place of DINO: one network, one view, a decoder; sizes are the caller's."""
    config.roles = ConfigDict(
        {"student": dict(follow="learns", sees=("global",), masked="drop", drop_path=False)}
    )
    config.evaluated = "student"
    for evaluation in config.evaluations.values():
        evaluation.of = ()  # the one that is evaluated
    config.objectives = ConfigDict({"mae": dict(kind="mae", normalize_targets=True)})
    config.masking.update(kind="random", probability=1.0, ratio=(0.75, 0.75))
    crop = ConfigDict(config.augment.crops.global_1.to_dict())
    crop.update(scale=(0.2, 1.0), jitter=0.0, grayscale=0.0, blur=0.0, solarize=0.0)
    config.augment.crops = ConfigDict({"global_1": crop})
    config.network.backbone.update(
        position="columns_first",
        first_kernels="xavier",
        position_kernel="bicubic_plain",
        drop_path_rate=0.0,
    )
    config.network.heads = ConfigDict({"decoder": to_config_dict(decoder.Config())})
    config.optimizer.update(
        fixed=("pos_embed",),
        weight_decay=0.05,
        weight_decay_end=0.05,
        min_lr=0.0,
        warmup_peak="after",
        clip_grad=0.0,
        freeze_last_layer_epochs=0.0,
    )
    config.optimizer.adamw.b2 = 0.95


def get_config() -> ConfigDict:
    config = vits16_vanilla.get_config()
    use_mae(config)
    config.epochs = 1600.0
    config.batch_size = 4096
    config.network.backbone.size = "base"
    config.optimizer.update(lr=1.5e-4, warmup_epochs=40.0)
    return config
