"""The complete config of an improvement: the model's own method, held by its start.

An epoch is one step: all lengths are in steps, so that they follow from the number of steps alone.
"""

import argparse
import math
from dataclasses import replace
from typing import Any, NamedTuple

import jax
from etils import epath

from dino_jax.data.augment import CropConfig
from dino_jax.data.decoding import with_decoding
from dino_jax.data.multi_crop import AugmentConfig
from dino_jax.data.sources import ImagesConfig
from dino_jax.evaluation.online import gain
from dino_jax.models import dino_head
from dino_jax.models.build import NetworkConfig
from dino_jax.objectives import dino, preserve
from dino_jax.optim.optimizer import OptimizerConfig
from dino_jax.run.guard import GuardConfig
from dino_jax.run.profile import ProfileConfig
from dino_jax.run.runtime import RuntimeConfig
from dino_jax.run.whole_config import Config
from dino_jax.step.roles import RoleConfig
from dino_jax.tuning.improving.photos import HELD_OUT_TXT, TRAIN_TXT, Parts
from dino_jax.tuning.improving.start import Start
from dino_jax.weights.init_from import InitFromConfig

START = "start"  # role: the model as it was
GAIN = "gain"  # name of the evaluation that judges
RATES = {"lora": 1e-3, "blocks": 1e-4, "all": 2e-5}  # of the backbone
HEADS_RATE = 1e-3
HEADS_ALONE, WARMUP = 0.1, 0.2  # shares of the steps
BATCH = 64
FEWEST_PROTOTYPES, MOST_PROTOTYPES = 256, 8192
LOCAL_SIDE = 96 / 224  # of a local crop over a global one (DINO)
LOCAL_CROPS = 4


class Plan(NamedTuple):
    """What a config is made of, besides the command line.

    Attributes:
      start: the model.
      parts: the division of the photos.
      folder: where their lists are.
      steps: updates.
    """

    start: Start
    parts: Parts
    folder: epath.Path
    steps: int


def compose(arguments: argparse.Namespace, plan: Plan) -> Config:
    """The config of an improvement; `dino-jax train` could run it."""
    start, steps = plan.start, plan.steps
    base = start.run or _fresh(start, plan.parts.trained)
    batch = batch_size(arguments, start, plan.parts.trained)
    data = with_decoding(ImagesConfig(kind="list"), replace(start.decoding, orientation="apply"))
    every = math.ceil(steps / min(arguments.evaluations, steps))
    return replace(
        base,
        seed=arguments.seed,
        batch_size=batch,
        accumulate_steps=1,
        epochs=float(steps),
        steps_per_epoch=1,
        data=replace(data, path=str(plan.folder / TRAIN_TXT)),
        max_pixels=arguments.max_pixels,
        roles=_roles(arguments, base, start, steps),
        evaluated="teacher",
        objectives=_objectives(arguments, base),
        optimizer=_optimizer(arguments, steps, batch),
        init_from=InitFromConfig(path=start.path, step=start.step),
        image_size=start.image_size,
        evaluations={
            GAIN: gain.Config(
                every_epochs=float(every),
                images=replace(data, path=str(plan.folder / HELD_OUT_TXT)),
                by=plan.parts.by,  # pyright: ignore[reportArgumentType]
                start=START,
                k=plan.parts.neighbours,
                looks=math.ceil(steps / every),
                batch_size=-(-BATCH // jax.device_count()) * jax.device_count(),
            )
        },
        probes=replace(base.probes, count=0, evaluation=GAIN),
        guard=GuardConfig(),
        runtime=RuntimeConfig(
            workers=arguments.workers,
            log_every_steps=max(1, every // 2),
            save_every_steps=every,
            keep_checkpoints=1,
            patience=arguments.patience,
            most_hours=arguments.hours or 0.0,
            writers=(),
        ),
        profile=ProfileConfig(),
    )


def batch_size(arguments: argparse.Namespace, start: Start, photos: int) -> int:
    """Photos per update, at most all that there are.

    Raises:
      ValueError: if more are asked for than there are.
    """
    devices = jax.device_count()
    if arguments.batch_size:
        if arguments.batch_size > photos or arguments.batch_size % devices:
            raise ValueError(
                f"--batch-size={arguments.batch_size} must be a multiple of the {devices} devices "
                f"and at most the {photos} photos to learn from"
            )
        return arguments.batch_size
    usual = start.run.batch_size if start.run else max(BATCH, devices)
    fitting = min(usual, photos) // devices * devices
    if not fitting:
        raise ValueError(f"{photos} photos to learn from are too few for {devices} devices")
    return fitting


def _fresh(start: Start, photos: int) -> Config:
    """DINO with new heads and crops that fit the model."""
    width = start.width
    prototypes = 2 ** round(math.log2(max(photos, 1)))
    head = dino_head.Config(
        out_dim=min(max(prototypes, FEWEST_PROTOTYPES), MOST_PROTOTYPES),
        hidden_dim=min(max(4 * width, 256), 2048),
        bottleneck_dim=min(width, 256),
    )
    network: NetworkConfig = replace(start.network, heads={"dino": head})
    patch = getattr(network.backbone, "patch_size", None) or 1
    return Config(
        network=network,
        augment=_crops(start.image_size, patch),
        objectives={"dino": dino.Config(kind="dino", centering="sinkhorn")},
        roles={
            "student": RoleConfig("learns", ("global", "local"), drop_path=True),
            "teacher": RoleConfig("averages", ("global",)),
        },
    )


def _crops(size: int, patch: int) -> AugmentConfig:
    """The crops of DINO at other sizes."""
    local = max(round(LOCAL_SIDE * size / patch), 1) * patch
    side = max(size // patch, 1) * patch
    return AugmentConfig(
        crops={
            "global_1": CropConfig(size=(side, side)),
            "global_2": CropConfig(size=(side, side), blur=0.1, solarize=0.2),
            "local": CropConfig("local", LOCAL_CROPS, (local, local), (0.1, 0.4), blur=0.5),
        }
    )


def _roles(
    arguments: argparse.Namespace, base: Config, start: Start, steps: int
) -> dict[str, RoleConfig]:
    """Student and teacher as they were, with an average over a tenth of the steps; the start."""
    momentum = min(max(1 - 10 / steps, 0.9), 0.999)
    return {
        **base.roles,
        "teacher": replace(
            base.roles["teacher"], momentum=momentum, momentum_end=momentum, parts={}
        ),
        START: RoleConfig(
            "frozen",
            ("global",) if arguments.preserve else (),
            path=start.path,
            step=start.step,
        ),
    }


def _objectives(arguments: argparse.Namespace, base: Config) -> dict[str, Any]:
    """Those of the model at their last values, and preservation."""
    found = {name: _settled(given) for name, given in base.objectives.items()}
    if arguments.preserve:
        found["preserve"] = preserve.Config(weight=arguments.preserve, targets=START)
    return found


def _settled(objective: Any) -> Any:
    """An objective without the schedules of the run that it comes from."""
    if not hasattr(objective, "warmup_teacher_temperature_epochs"):
        return objective
    return replace(objective, warmup_teacher_temperature_epochs=0.0, parts={})


def _optimizer(arguments: argparse.Namespace, steps: int, batch: int) -> OptimizerConfig:
    """AdamW; first the heads learn alone, then the backbone with a rate of its own."""
    rate = arguments.lr or RATES[arguments.what]
    return OptimizerConfig(
        lr=HEADS_RATE,
        reference_batch=batch,
        min_lr=HEADS_RATE / 100,
        warmup_epochs=float(math.floor(WARMUP * steps)),
        weight_decay=0.04,
        weight_decay_end=0.04,
        layer_decay=arguments.layer_decay if arguments.what == "all" else 1.0,
        freeze_backbone_epochs=float(math.ceil(HEADS_ALONE * steps)),
        freeze_last_layer_epochs=0.0,
        backbone_lr_multiplier=rate / HEADS_RATE,
        moves=arguments.what,
        last_blocks=arguments.blocks,
        lora_rank=arguments.rank,
        lora_alpha=arguments.alpha or 2.0 * arguments.rank,
    )
