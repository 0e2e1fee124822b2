"""The parts of a run, built from its config and the size of its data set."""

import dataclasses
from functools import partial
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from dino_jax.data.masking import Masking, build_masking
from dino_jax.data.multi_crop import build_multi_crop, check_patches
from dino_jax.models.build import build_network
from dino_jax.models.network import Network
from dino_jax.objectives.base import Objective
from dino_jax.objectives.build import build_objectives, check_groups
from dino_jax.optim.optimizer import build_optimizer
from dino_jax.optim.schedules import Schedule, build_cosine, epochs_to_steps, scale_learning_rate
from dino_jax.step.placement import fit_to_mesh
from dino_jax.step.train_state import TrainState, init_train_state
from dino_jax.step.train_step import make_train_step


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a train step is made of, and how long the run is.

    Attributes:
      network: module of student and teacher.
      objectives: by name.
      optimizer: of the student.
      momentum: schedule of the teacher's EMA.
      schedules: "lr" and "weight_decay", the ones inside the optimizer.
      crop_shape: (H, W, C) of a crop of the first group.
      steps_per_epoch: updates per epoch.
      total_steps: updates of the run.
      accumulate_steps: passes per update.
      masking: of the student's global crops, None for none.
      hide_masked: whether the student does not see masked patches.
      frozen_teacher: module of the teacher of a distillation, None for none.
      grace_steps: in which the last layer is frozen or the learning rate warms up, of which one
        epoch counts; features and targets say little then.
    """

    network: Network
    objectives: dict[str, Objective]
    optimizer: optax.GradientTransformationExtraArgs
    momentum: Schedule
    schedules: dict[str, Schedule]
    crop_shape: tuple[int, int, int]
    steps_per_epoch: int
    total_steps: int
    accumulate_steps: int
    masking: Masking | None
    hide_masked: bool
    frozen_teacher: Network | None
    grace_steps: int

    def init(self, rng: jax.Array) -> TrainState:
        """First state of the run; call it under jit."""
        return init_train_state(self.network, self.objectives, self.optimizer, self.crop_shape, rng)

    def schedule_values(self, step: int) -> dict[str, float]:
        """The schedules as the update that finished `step` used them."""
        return {name: float(rule(step - 1)) for name, rule in self.schedules.items()}

    def make_step(
        self,
        log_every_steps: int = 1,
        mesh: Mesh | None = None,
        gradient_dtype: str = "float32",
    ):
        """The train step `(state, batch, frozen=None) -> (state, metrics)`; jit it.

        Args:
          log_every_steps: at whose multiples, and at the last step, all metrics are measured.
          mesh: that it runs on; None: one device.
          gradient_dtype: in which devices sum gradients, a key of `placement.GRADIENT_DTYPES`.

        Raises:
          ValueError: if the dtype is unknown.
        """
        fit = partial(fit_to_mesh, mesh=mesh, gradient_dtype=gradient_dtype)
        return make_train_step(
            fit(self.network),
            self.objectives,
            self.optimizer,
            self.momentum,
            self.accumulate_steps,
            lambda step: (step % log_every_steps == 0) | (step == self.total_steps),
            self.frozen_teacher and fit(self.frozen_teacher),
            self.hide_masked,
        )


def build_recipe(config: Any, image_count: int, frozen_teacher: Network | None = None) -> Recipe:
    """Builds all parts.

    Args:
      config: the whole config.
      image_count: images of the training set.
      frozen_teacher: module of the teacher of a distillation.

    Raises:
      ValueError: if something in the config is unknown, out of range or does not fit together.
    """
    if config.seed < 0:
        raise ValueError(f"config.seed must be at least 0, got {config.seed}")
    if config.batch_size > image_count:
        raise ValueError(
            f"batch_size ({config.batch_size}) is larger than the data set ({image_count} images); "
            "lower --config.batch_size or add images"
        )
    network, groups = build_network(config.network), build_multi_crop(config.augment).groups
    patch_size: int = network.backbone.patch_size
    check_patches(groups, patch_size)
    check_views(sum(len(group.crops) for group in groups.values()))
    steps_per_epoch = config.steps_per_epoch or image_count // config.batch_size
    total_steps = epochs_to_steps(config.epochs, steps_per_epoch)
    if total_steps < 1:
        raise ValueError(f"config.epochs ({config.epochs}) gives no steps; use a larger number")
    length = dict(total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    batch_size = config.batch_size
    pass_size = batch_size // config.accumulate_steps
    check_groups(config.objectives, pass_size)
    check_masking(config)
    height, width = next(iter(groups.values())).size
    freeze_epochs, warmup_epochs = (
        config.optimizer.freeze_last_layer_epochs,
        config.optimizer.warmup_epochs,
    )
    grace_epochs = max(freeze_epochs, min(warmup_epochs, 1.0))
    optimizer, rates = build_optimizer(config.optimizer, batch_size=batch_size, **length)
    if max(config.teacher.momentum, config.teacher.momentum_end) > 1:
        raise ValueError(
            f"teacher.momentum ({config.teacher.momentum}) and teacher.momentum_end "
            f"({config.teacher.momentum_end}) must be at most 1"
        )
    return Recipe(
        network=network,
        objectives=build_objectives(config.objectives, config.network.heads, **length),
        optimizer=optimizer,
        momentum=build_cosine(
            config.teacher.momentum, config.teacher.momentum_end, total_steps=total_steps
        ),
        schedules=rates,
        crop_shape=(height, width, network.backbone.in_channels),
        accumulate_steps=config.accumulate_steps,
        masking=build_masking(
            config.masking,
            groups=groups,
            patch_size=patch_size,
            batch_size=pass_size,
        ),
        hide_masked=config.masking.hide,
        frozen_teacher=frozen_teacher,
        grace_steps=epochs_to_steps(grace_epochs, steps_per_epoch),
        **length,
    )


def check_masking(config: Any) -> None:
    """Checks that masks are made where something needs them, for a network that can take them.

    Raises:
      ValueError: if iBOT has no masks, or masks meet a network without a mask token.
    """
    backbone, masked = config.network.backbone, config.masking.probability > 0
    if "ibot" in config.objectives and not masked:
        raise ValueError("config.objectives.ibot needs masks: set config.masking.probability=0.5")
    hidden = masked and config.masking.hide
    if hidden and not (backbone.kind == "vit" and backbone.has_mask_token):
        raise ValueError(
            "config.masking.probability > 0 needs a ViT with "
            "--config.network.backbone.has_mask_token=True"
        )


def check_views(views: int) -> None:
    """Raises a ValueError if an image gives fewer views than can be compared."""
    if views < 2:
        raise ValueError(
            "DINO compares different views of an image: the counts of config.augment.crops must "
            "add up to at least 2"
        )


def describe_recipe(recipe: Recipe, config: Any, state: TrainState) -> list[str]:
    """The lines that a run prints first: parameters, length and effective schedules.

    Args:
      recipe: of the run.
      config: the whole config.
      state: of the run, abstract or not.
    """
    counts = {
        name.replace("heads_", "head "): sum(leaf.size for leaf in jax.tree.leaves(tree))
        for name, tree in state.student["params"].items()
    }
    parameters = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    lr, optimizer = recipe.schedules["lr"], config.optimizer
    warmup = epochs_to_steps(optimizer.warmup_epochs, recipe.steps_per_epoch)
    frozen = epochs_to_steps(optimizer.freeze_last_layer_epochs, recipe.steps_per_epoch)
    heads_alone = epochs_to_steps(optimizer.freeze_backbone_epochs, recipe.steps_per_epoch)
    peak = scale_learning_rate(
        optimizer.lr, config.batch_size, optimizer.reference_batch, optimizer.lr_scaling
    )
    scaling = {"linear": "x", "sqrt": "x the root of"}[optimizer.lr_scaling]
    last = recipe.total_steps - 1
    decay, momentum = recipe.schedules["weight_decay"], recipe.momentum
    return [
        f"parameters  {parameters}",
        f"length      {config.epochs:g} epochs x {recipe.steps_per_epoch} steps = "
        f"{recipe.total_steps} steps of {config.batch_size} images"
        + (f" in {recipe.accumulate_steps} passes" if recipe.accumulate_steps > 1 else ""),
        f"lr          base {optimizer.lr:g} {scaling} batch {config.batch_size} / "
        f"{optimizer.reference_batch} = {peak:g}; "
        f"warm-up {warmup} steps, then cosine to {lr(last):.3g}",
        f"weights     decay {decay(0):g} to {decay(last):.3g}; "
        f"last layer frozen for {frozen} steps"
        + (f", backbone for {heads_alone}" if heads_alone else ""),
        f"teacher     momentum {momentum(0):g} to {momentum(last):.6g}",
    ]
