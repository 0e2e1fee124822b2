"""SimCLR ResNet-50 on ImageNet-1k, the official run of 100 epochs with the code's head.

Paper: A Simple Framework for Contrastive Learning of Visual Representations, arXiv:2002.05709; the
head of three layers is that of the code and of SimCLR v2 (arXiv:2006.10029), the paper had two.
Images stay in [0, 1]. The loss is the code's sum of both directions, twice the paper's. The online
classifier of the official code is left out. For small batches (256), the rate grows with the root:
--config.optimizer.lr=0.075 --config.optimizer.reference_batch=1 --config.optimizer.lr_scaling=sqrt.
Two things differ from the official code: every image has a blur of its own, where that draws one
for the batch, and a box is the central one after 10 tries, where that takes the whole image after
100.
Expected (official README): 64.5 % linear after 100 epochs, at batch 4096.
Hardware and time: officially 32 TPU v3 cores, 6 hours. Not yet run here.

Command:
  dino-jax train --config=simclr_r50 --workdir=runs/simclr_r50 \
    --config.data.path=/data/imagenet/train \
    --config.evaluations.knn.train.path=/data/imagenet/train \
    --config.evaluations.knn.test.path=/data/imagenet/val
"""

from ml_collections import ConfigDict

from configs import vits16_vanilla


def get_config() -> ConfigDict:
    config = vits16_vanilla.get_config()
    config.batch_size = 4096
    config.epochs = 100.0

    crops = config.augment.crops
    del crops.local
    for crop in crops.values():
        crop.update(
            scale=(0.08, 1.0),
            colors="float",
            brightness=0.8,
            contrast=0.8,
            saturation=0.8,
            hue=0.2,
            blur=0.5,
            solarize=0.0,
        )

    config.network.update(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    config.network.backbone = ConfigDict(dict(kind="resnet", size="50", zero_init_residual=True))
    config.network.heads = ConfigDict(
        dict(
            projector=dict(
                kind="mlp",
                layers=3,
                hidden_dim=2048,
                out_dim=128,
                last_norm="scale",
                first_kernels="normal",
            )
        )
    )
    config.objectives = ConfigDict(dict(simclr=dict(kind="simclr", temperature=0.1)))
    config.roles.student.update(sees=("global",), masked="no", drop_path=False)
    del config.roles.teacher
    config.evaluated = "student"
    config.evaluations.proxies.of = ("student",)
    config.optimizer.update(
        kind="lars",
        lr=0.3,  # x 4096 / 256 = 4.8
        min_lr=0.0,
        warmup_epochs=10.0,
        warmup_peak="after",
        weight_decay=1e-4,
        weight_decay_end=1e-4,
        clip_grad=0.0,
        freeze_last_layer_epochs=0.0,
    )
    config.optimizer.lars.rate = "in_momentum"
    return config
