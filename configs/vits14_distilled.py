"""DINOv2 ViT-S/14 from a trained ViT-g/14: distillation on ImageNet-22k.

Paper: DINOv2, arXiv:2304.07193, Section 5. Differs from vitg14 in what stands below: its teacher is
frozen and gives the targets, the student sees unmasked images and has no stochastic depth, masks
only choose the patches of the iBOT loss, the EMA of the student is kept. The official code has no
distillation, so length and rates are those of vitg14. For ViT-B and L set
--config.network.backbone.size=base or large.
Expected: 79.0 % k-NN, 81.1 % linear (official README, distilled on LVD-142M, which is not public).
Hardware and time: officially 4,500 A100 hours. Not yet run on a TPU.

Command:
  dino-jax train --config=vits14_distilled --workdir=runs/vits14_distilled \
    --config.roles.frozen_teacher.path=runs/vitg14 --config.data.path=/data/imagenet22k \
    --config.evaluations.knn.train.path=/data/imagenet/train \
    --config.evaluations.knn.test.path=/data/imagenet/val
"""

from ml_collections import ConfigDict

from configs import vitg14


def get_config() -> ConfigDict:
    config = vitg14.get_config()
    config.roles.frozen_teacher = ConfigDict(
        dict(follow="frozen", path="runs/vitg14", sees=("global",))
    )
    config.roles.teacher.sees = ()
    config.roles.student.masked = "no"
    config.objectives.dino.targets = config.objectives.ibot.targets = "frozen_teacher"
    config.evaluations.knn.of = ("teacher", "frozen_teacher")
    config.network.backbone.update(size="small", ffn="mlp", drop_path_rate=0.0)
    return config
