"""DINOv2's last stage: 10,000 steps of a pretrained ViT-L/14 at 518 pixels, for dense features.

Paper: DINOv2, arXiv:2304.07193, Section 4 and Appendix B.2. Differs from vitl14 in what stands
below. No official config was released: the number of steps and the resolution are the paper's, the
schedules are those of vitl14 in 10,000 steps, and the lower learning rate is our choice.
Expected: no figure yet.
Hardware and time: not yet run on a TPU. A crop has 1369 patches: plan with a small batch per chip.

Command:
  dino-jax train --config=vitl14_518 --workdir=runs/vitl14_518 \
    --config.init_from.path=runs/vitl14 --config.data.path=/data/imagenet22k \
    --config.evaluations.knn.train.path=/data/imagenet/train \
    --config.evaluations.knn.test.path=/data/imagenet/val
"""

from ml_collections import ConfigDict

from configs import vitl14


def get_config() -> ConfigDict:
    config = vitl14.get_config()
    config.init_from.path = "runs/vitl14"  # workdir of the run before this stage
    config.epochs = 8.0  # x 1250 steps
    shorter = 8 / 500  # than vitl14
    for name in ("global_1", "global_2"):
        config.augment.crops[name].size = (518, 518)
    config.network.backbone.update(image_size=(518, 518), remat="full")
    for name in ("dino", "ibot"):
        config.objectives[name].warmup_teacher_temperature_epochs = 30 * shorter
    config.optimizer.update(lr=1e-4, warmup_epochs=80 * shorter, freeze_last_layer_epochs=0.0)
    config.image_size = 518
    for name in ("knn", "proxies", "agreement"):
        config.evaluations[name].batch_size = 128
    return config
