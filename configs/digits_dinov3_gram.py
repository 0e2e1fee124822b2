"""Gram anchoring on digits: goes on from digits_dinov3 with an anchor that looks twice as close.

Paper: DINOv3, arXiv:2508.10104, Section 4. Differs from digits_dinov3 in what stands below: a third
network, a copy of the teacher that the run starts from, sees undistorted crops of the same boxes at
64 pixels, and its patch similarities, reduced to the student's grid, are those to keep. It is
renewed three times; the weights move in the first epoch.
Expected: see docs/dinov3.md.
Hardware and time: 2 CPU cores, somewhat longer than the quickstart; digits_dinov3 must have run
before.

Command:
  dino-jax train --config=digits_dinov3_gram --workdir=runs/digits_dinov3_gram
"""

from ml_collections import ConfigDict

from configs import digits_dinov3
from dino_jax.config.defaults import to_config_dict
from dino_jax.objectives import gram
from dino_jax.step.roles import RoleConfig


def get_config() -> ConfigDict:
    config = digits_dinov3.get_config()
    config.init_from.path = "runs/digits_dinov3"
    config.epochs = 8.0
    crops = config.augment.crops
    for number in (1, 2):
        crops[f"gram_{number}"] = ConfigDict(crops[f"global_{number}"].to_dict())
        crops[f"gram_{number}"].update(
            group="gram", size=(64, 64), box_of=f"global_{number}", jitter=0.0, blur=0.0
        )
    heads = tuple(config.network.heads)
    config.roles.gram = to_config_dict(
        RoleConfig(
            follow="copies",
            sees=("gram",),
            leaves_out=heads,
            of="teacher",
            every_steps=200,
            first_step=200,
            most_copies=3,
        )
    )
    config.objectives.gram = to_config_dict(gram.Config(weight=2.0))
    first_epoch = dict(warmup_epochs=0.0, cosine_epochs=1.0)
    config.objectives.gram.parts.weight = ConfigDict(
        dict(start=0.0, peak=0.0, end=2.0, **first_epoch)
    )
    config.objectives.dino.parts.local_weight = ConfigDict(
        dict(start=1.0, peak=1.0, end=0.5, **first_epoch)
    )
    for name in ("dino", "ibot"):
        config.objectives[name].parts.teacher_temperature.update(start=0.07, warmup_epochs=0.0)
    config.optimizer.parts.lr.update(warmup_epochs=0.0)
    config.optimizer.freeze_last_layer_epochs = 0.0
    config.roles.teacher.update(momentum=0.999, momentum_end=0.999)
    return config
