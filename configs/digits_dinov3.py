"""DINOv3 on the quickstart's digits: DINOv2 with axial RoPE, Sinkhorn-Knopp and plain last layers.

Paper: DINOv3, arXiv:2508.10104. Differs from digits_dinov2 in what stands below. The schedules are
those of the long runs: after a warm-up, learning rate, weight decay and momentum are constant, so
that a run can go on, and digits_dinov3_gram continues it. Nothing is tuned.
Expected: see docs/dinov3.md.
Hardware and time: 2 CPU cores, about as long as the quickstart.

Command:
  dino-jax train --config=digits_dinov3 --workdir=runs/digits_dinov3
"""

from ml_collections import ConfigDict

from configs import digits_dinov2, vits16_vanilla
from dino_jax.config.defaults import to_config_dict
from dino_jax.evaluation.online import dense


def get_config() -> ConfigDict:
    config = digits_dinov2.get_config()
    config.epochs = 24.0
    config.network.backbone.update(position="rope", key_bias=False)
    config.network.backbone.rope.rescale = 2.0
    for name in ("dino", "ibot"):
        config.network.heads[name].update(last_layer="linear", train_gain=False)
        config.objectives[name].parts.teacher_temperature = ConfigDict(
            dict(start=0.04, peak=0.07, end=0.07, warmup_epochs=4.0, cosine_epochs=0.0)
        )
    config.objectives.dino.min_local_pairs = 0
    rate = config.optimizer.lr
    config.optimizer.parts.lr = ConfigDict(
        dict(start=0.0, peak=rate, end=rate, warmup_epochs=2.0, cosine_epochs=0.0)
    )
    config.optimizer.update(weight_decay=0.04, weight_decay_end=0.04, clip="module")
    config.roles.teacher.update(momentum=0.99, momentum_end=0.99)
    config.evaluations.dense = to_config_dict(
        dense.Config(every_epochs=4.0, image_size=64, batch_size=256)
    )
    config.evaluations.dense.images = vits16_vanilla.images("digits", "test")
    return config
