"""What the study changes in a config, one factor at a time, and the name of a run."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from dino_jax.commands.config_file import load_config

METHODS = {
    "dino": "quickstart",
    "dinov2": "digits_dinov2",
    "dinov3": "digits_dinov3",
    "small_data": "small_data:32",
}
STEPS = 200  # of 64 images: 12,800
POINTS = 8  # checkpoints of a run, all kept and judged
MOST_TRAIN, MOST_TEST = 2000, 1000  # images of the k-NN
GLOBAL = ("global_1", "global_2")


def set_both(config: ConfigDict, **values: Any) -> None:
    """The same in the objectives dino and ibot, as far as they are there."""
    for name in ("dino", "ibot"):
        if name in config.objectives:
            config.objectives[name].update(values)


def set_heads(config: ConfigDict, **values: Any) -> None:
    """The same in all heads."""
    for head in config.network.heads.values():
        head.update(values)


def set_crops(config: ConfigDict, **values: Any) -> None:
    """The same in all crops."""
    for crop in config.augment.crops.values():
        crop.update(values)


def set_global(config: ConfigDict, **values: Any) -> None:
    """The same in the global crops."""
    for name in GLOBAL:
        config.augment.crops[name].update(values)


def take_out_ibot(config: ConfigDict) -> None:
    """No patch loss, and so no masks."""
    del config.objectives.ibot
    del config.network.heads.ibot
    config.masking.probability = 0.0


def delay_ibot(config: ConfigDict) -> None:
    """The patch loss's weight rises on a line in the first half of the run."""
    rise = dict(start=0.0, peak=1.0, end=1.0, warmup_epochs=config.epochs / 2, cosine_epochs=0.0)
    config.objectives.ibot.parts = ConfigDict({"weight": rise})


def start_as_moco(config: ConfigDict) -> None:
    """MoCo v3's first kernels and table of positions, which learns here."""
    config.network.backbone.update(
        position="rows_first", first_kernels="xavier_split", token_std=1e-6
    )


def take_out_koleo(config: ConfigDict) -> None:
    del config.objectives.koleo


def raise_momentum(config: ConfigDict) -> None:
    """From 0.9 to 0.99 on a cosine."""
    config.roles.teacher.update(momentum=0.9, momentum_end=0.99)


# Of the crops of quickstart: scale 0.6 to 1 (global) and 0.3 to 0.6 (local), no flip, gray jitter.
FACTORS: dict[str, tuple[str, Callable[[ConfigDict], Any]]] = {
    "prototypes_64": ("K = 64 for 256", lambda c: set_heads(c, out_dim=64)),
    "prototypes_1024": ("K = 1,024 for 256", lambda c: set_heads(c, out_dim=1024)),
    "prototypes_8192": ("K = 8,192 for 256", lambda c: set_heads(c, out_dim=8192)),
    "center": ("DINO's centering for Sinkhorn-Knopp", lambda c: set_both(c, centering="center")),
    "no_ibot": ("no iBOT, no masks", take_out_ibot),
    "ibot_late": ("iBOT's weight rises from 0 in the first half", delay_ibot),
    "ibot_quarter": ("iBOT's weight 0.25", lambda c: c.objectives.ibot.update(weight=0.25)),
    "no_koleo": ("no KoLeo", take_out_koleo),
    "koleo_strong": ("KoLeo's weight 0.5", lambda c: c.objectives.koleo.update(weight=0.5)),
    "batch_norm": ("BatchNorm in the heads", lambda c: set_heads(c, batch_norm=True)),
    "head_2": ("heads of 2 layers for 3", lambda c: set_heads(c, layers=2)),
    "momentum_90": (
        "teacher momentum 0.9 for 0.99",
        lambda c: c.roles.teacher.update(momentum=0.9, momentum_end=0.9),
    ),
    "momentum_96": (
        "teacher momentum 0.96 for 0.99",
        lambda c: c.roles.teacher.update(momentum=0.96, momentum_end=0.96),
    ),
    "momentum_rise": ("teacher momentum 0.9 to 0.99", raise_momentum),
    "temperature_07": (
        "teacher temperature 0.07 for 0.04",
        lambda c: set_both(c, teacher_temperature=0.07, warmup_teacher_temperature=0.07),
    ),
    "masks_low": ("masks 0.1 to 0.3", lambda c: c.masking.update(ratio=(0.1, 0.3))),
    "no_drop_path": ("drop path 0", lambda c: c.network.backbone.update(drop_path_rate=0.0)),
    "layer_scale_small": (
        "LayerScale from 1e-5, as in the paper's code",
        lambda c: c.network.backbone.update(layer_scale=1e-5),
    ),
    "no_registers": ("no registers", lambda c: c.network.backbone.update(registers=0)),
    "no_freeze": (
        "last layer never frozen",
        lambda c: c.optimizer.update(freeze_last_layer_epochs=0.0),
    ),
    "rate_2": ("twice the learning rate", lambda c: c.optimizer.update(lr=2 * c.optimizer.lr)),
    "rate_half": ("half the learning rate", lambda c: c.optimizer.update(lr=c.optimizer.lr / 2)),
    "no_clip": ("gradients not clipped", lambda c: c.optimizer.update(clip_grad=0.0)),
    "xavier": (
        "Xavier's first kernels for normal ones of 0.02",
        lambda c: c.network.backbone.update(first_kernels="xavier"),
    ),
    "sincos": (
        "positions start as sines and cosines",
        lambda c: c.network.backbone.update(position="rows_first"),
    ),
    "first_weights": ("both, as in MoCo v3", start_as_moco),
    "pixels": (
        "pixels stay in 0 to 1",
        lambda c: c.network.update(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    ),
    "no_decay": (
        "no weight decay",
        lambda c: c.optimizer.update(weight_decay=0.0, weight_decay_end=0.0),
    ),
    "global_wide": ("global crops from 0.25", lambda c: set_global(c, scale=(0.25, 1.0))),
    "local_4": ("4 local crops for 2", lambda c: c.augment.crops.local.update(count=4)),
    "no_local": ("no local crops", lambda c: c.augment.crops.local.update(count=0)),
    "color": (
        "hue, saturation and gray as in DINO",
        lambda c: set_crops(c, saturation=0.2, hue=0.1, grayscale=0.2),
    ),
    "no_flip": ("views not mirrored", lambda c: set_crops(c, flip=0.0)),
    "flip": ("mirrored views", lambda c: set_crops(c, flip=0.5)),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One training: its method or config, what is changed, its length and seed.

    Attributes:
      method: key of `METHODS`, or a shipped config.
      factors: keys of `FACTORS`, applied in this order.
      steps: updates, a multiple of `POINTS`.
      seed: of the run.
    """

    method: str
    factors: tuple[str, ...]
    steps: int
    seed: int

    @property
    def name(self) -> str:
        """METHOD+FACTOR+…-STEPS-SEED, the folder of the run."""
        return f"{'+'.join((self.method, *self.factors))}-{self.steps}-{self.seed}"


def parse_run(name: str) -> Run:
    """The run of a name.

    Raises:
      ValueError: if it is no name of a run, or a factor is unknown.
    """
    found = re.fullmatch(r"(\w+)((?:\+\w+)*)-(\d+)-(\d+)", name)
    if not found:
        raise ValueError(f"{name!r} is not METHOD+FACTOR+…-STEPS-SEED")
    method, factors, steps, seed = found.groups()
    chosen = tuple(factors.split("+")[1:])
    if unknown := [factor for factor in chosen if factor not in FACTORS]:
        raise ValueError(f"unknown factors {unknown}; known: {sorted(FACTORS)}")
    if int(steps) % POINTS:
        raise ValueError(f"{name}: {steps} steps are no multiple of {POINTS}")
    return Run(method, chosen, int(steps), int(seed))


def make_config(run: Run, images: Path) -> ConfigDict:
    """The config of a run.

    Args:
      run: the run.
      images: folder with "train" and "test", see `images`.
    """
    config = load_config(METHODS.get(run.method, run.method))
    steps_per_epoch = config.steps_per_epoch
    config.update(seed=run.seed, epochs=run.steps / steps_per_epoch)
    for factor in run.factors:
        FACTORS[factor][1](config)
    for name, section in (
        ("train", config.data),
        ("train", config.evaluations.knn.train),
        ("test", config.evaluations.knn.test),
        ("test", config.evaluations.proxies.images),
        ("test", config.evaluations.agreement.images),
    ):
        section.update(kind="folder", path=str(images / name), split="")
    for evaluation in config.evaluations.values():
        evaluation.every_epochs = 0.0
    config.evaluations.knn.update(max_train_images=MOST_TRAIN, max_test_images=MOST_TEST)
    config.probes.count = 0
    config.runtime.update(
        workers=0,
        writers=(),
        save_every_minutes=0.0,
        save_every_steps=run.steps // POINTS,
        keep_checkpoints=POINTS,
    )
    return config
