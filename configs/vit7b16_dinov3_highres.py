"""DINOv3's ViT-7B/16, third stage: 30,000 steps at one high resolution.

Paper: DINOv3, arXiv:2508.10104, Section 5.1. Continues vit7b16_dinov3_gram and differs from it in
what stands below. Officially every step draws one of five pairs of sizes (512 and 112, 768 and 112,
168, 224 or 336 pixels, with 0.3, 0.3, 0.3, 0.05 and 0.05); a run here has one: give others with
--config.augment.crops. The anchor stays the model that the run starts from.
Expected: no figure of this stage by itself.
Hardware and time: not yet run on a TPU. A global crop has 2304 patches.

Command:
  dino-jax train --config=vit7b16_dinov3_highres --workdir=runs/vit7b16_dinov3_highres \
    --config.init_from.path=runs/vit7b16_dinov3_gram --config.data.path=/data/images \
    --config.evaluations.knn.train.path=/data/imagenet/train \
    --config.evaluations.knn.test.path=/data/imagenet/val
"""

from ml_collections import ConfigDict

from configs import vit7b16_dinov3_gram


def get_config() -> ConfigDict:
    config = vit7b16_dinov3_gram.get_config()
    config.init_from.path = "runs/vit7b16_dinov3_gram"
    config.batch_size = 2048
    config.epochs = 30.0
    group = 8  # images, as on one of the official GPUs
    crops = config.augment.crops
    for number in (1, 2):
        crops[f"global_{number}"].size = (768, 768)
        crops[f"gram_{number}"].size = (1152, 1152)
    crops.local.size = (168, 168)
    config.masking.group_size = group
    config.network.backbone.update(drop_path_group=2 * group, image_size=(768, 768))
    config.objectives.koleo.group_size = 16
    config.objectives.gram.weight = 1.5
    del config.objectives.gram.parts.weight
    half = dict(start=0.5, peak=0.5, end=0.5, warmup_epochs=0.0, cosine_epochs=0.0)
    config.objectives.dino.parts.local_weight = ConfigDict(half)
    config.optimizer.parts.lr.update(start=0.0, peak=0.0, end=5e-5, cosine_epochs=10.0)
    config.roles.gram.update(first_step=0, most_copies=0)
    config.image_size = 768
    return config
