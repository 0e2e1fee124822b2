"""BYOL ResNet-50 on ImageNet-1k, the official preset of 300 epochs.

Paper: Bootstrap Your Own Latent, arXiv:2006.07733. The official presets by epochs: 100 has lr 0.45,
1000 has lr 0.2, momentum 0.996 and weight decay 1.5e-6. Three things differ from the official code:
teacher and student start equal (the authors saw no difference), convolutions have torch's padding,
where Haiku pads right and below only, and their first kernels are He's.
Expected (official README): 74.4 % linear after 1000 epochs; of the student, which is evaluated.
Hardware and time: officially 512 TPU v3 cores, 8 hours for 1000 epochs. Not yet run here.

Command:
  dino-jax train --config=byol_r50 --workdir=runs/byol_r50 \
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
        crop.update(scale=(0.08, 1.0), colors="float", brightness_adds=True)

    config.network.backbone = ConfigDict(dict(kind="resnet", size="50", zero_init_residual=True))
    mlp = dict(
        kind="mlp", hidden_dim=4096, out_dim=256, hidden_bias=True, first_kernels="truncated"
    )
    config.network.heads = ConfigDict(
        dict(projector=dict(mlp, of="cls"), predictor=dict(mlp, of="projector"))
    )
    config.objectives = ConfigDict(dict(byol=dict(kind="byol")))
    config.roles.student.update(sees=("global",), masked="no", drop_path=False)
    config.roles.teacher.update(leaves_out=("predictor",), momentum=0.99, momentum_end=1.0)
    config.evaluated = "student"
    config.evaluations.proxies.of = ("student", "teacher")
    config.optimizer.update(
        kind="lars",
        lr=0.3,  # x 4096 / 256 = 4.8
        min_lr=0.0,
        warmup_epochs=10.0,
        warmup_peak="after",
        weight_decay=1e-6,
        weight_decay_end=1e-6,
        clip_grad=0.0,
        freeze_last_layer_epochs=0.0,
    )
    return config
