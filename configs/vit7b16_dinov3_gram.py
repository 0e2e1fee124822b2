"""DINOv3's ViT-7B/16, second stage: 200,000 steps with Gram anchoring at double resolution.

Paper: DINOv3, arXiv:2508.10104, Section 4. Continues vit7b16_dinov3 and differs from it in what
stands below. Officially the first stage's run is resumed at step 1,000,000 with this config; here
the stage is a run of its own, its step 0 is that step, and it starts from the averaged teacher with
new optimizer moments. The anchor is that teacher, renewed after 10,000, 20,000 and 30,000 steps.
Expected: no figure of this stage by itself.
Hardware and time: as vit7b16_dinov3, with the anchor's pass at 512 pixels.

Command:
  dino-jax train --config=vit7b16_dinov3_gram --workdir=runs/vit7b16_dinov3_gram \
    --config.init_from.path=runs/vit7b16_dinov3 --config.data.path=/data/images \
    --config.evaluations.knn.train.path=/data/imagenet/train \
    --config.evaluations.knn.test.path=/data/imagenet/val
"""

from ml_collections import ConfigDict

from configs import vit7b16_dinov3
from dino_jax.config.defaults import to_config_dict
from dino_jax.objectives import gram
from dino_jax.step.roles import RoleConfig


def add_anchor(config: ConfigDict, side: int) -> None:
    """Adds a role that sees the boxes of the global crops, undistorted, and its objective.

    The official code cuts an image once, at the larger size, and resizes that crop for the student;
    here both are cut from the image.
    """
    crops = config.augment.crops
    for number in (1, 2):
        crops[f"gram_{number}"] = ConfigDict(crops[f"global_{number}"].to_dict())
        crops[f"gram_{number}"].update(
            group="gram",
            size=(side, side),
            box_of=f"global_{number}",
            jitter=0.0,
            grayscale=0.0,
            blur=1.0 if config.augment.blur == "as_trained" else 0.0,  # as trained: 1 - this
            solarize=0.0,
        )
    config.roles.gram = to_config_dict(
        RoleConfig(
            follow="copies", sees=("gram",), leaves_out=tuple(config.network.heads), of="teacher"
        )
    )
    config.objectives.gram = to_config_dict(gram.Config(weight=2.0, level="image"))


def get_config() -> ConfigDict:
    config = vit7b16_dinov3.get_config()
    config.init_from.path = "runs/vit7b16_dinov3"
    config.epochs = 200.0
    add_anchor(config, 512)
    config.roles.gram.update(first_step=10_000, every_steps=10_000, most_copies=3)
    rise = dict(start=0.0, peak=0.0, end=2.0, warmup_epochs=0.0, cosine_epochs=1.0)
    config.objectives.gram.parts.weight = ConfigDict(rise)
    fall = dict(start=1.0, peak=1.0, end=0.5, warmup_epochs=0.0, cosine_epochs=1.0)
    config.objectives.dino.parts.local_weight = ConfigDict(fall)
    for name in ("dino", "ibot"):
        config.objectives[name].parts.teacher_temperature.update(start=0.07, warmup_epochs=0.0)
    config.optimizer.parts.lr.update(start=1.2e-4, peak=1.2e-4, end=1.2e-4, warmup_epochs=0.0)
    config.optimizer.freeze_last_layer_epochs = 0.0
    config.roles.teacher.update(momentum=0.999, momentum_end=0.999)
    return config
