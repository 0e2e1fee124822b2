"""The parts of a run, built from its config and the size of its data set."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from dino_jax.config.range import MOST_INTEGER
from dino_jax.data.augment import CropConfig
from dino_jax.data.decoding import build_decoding
from dino_jax.data.masking import Masking, build_masking
from dino_jax.data.multi_crop import build_multi_crop, check_patches
from dino_jax.models.build import build_network
from dino_jax.models.network import Network
from dino_jax.objectives.base import Objective
from dino_jax.objectives.build import build_objectives
from dino_jax.optim.optimizer import build_optimizer
from dino_jax.optim.parts import Parts
from dino_jax.optim.schedules import Schedule, epochs_to_steps, scale_learning_rate
from dino_jax.step.health import build_measures
from dino_jax.step.needs import (
    check_drop_path,
    check_needs,
    check_roles,
    count_views,
    keeps_views_apart,
)
from dino_jax.step.placement import fit_to_mesh
from dino_jax.step.roles import Role, build_roles, find_learner, fit_roles, in_state
from dino_jax.step.train_state import TrainState, init_train_state
from dino_jax.step.train_step import make_train_step


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The parts of a train step, and the length of the run.

    Attributes:
      roles: networks by name.
      evaluated: name of the role that is evaluated, loaded and exported.
      objectives: objectives by name.
      optimizer: optimizer of the role that learns.
      schedules: "lr" and "weight_decay", the ones inside the optimizer.
      views: crops of an image by group, 0 for a group of which none is drawn.
      crop_sizes: (height, width) of the crops of a group, in pixels.
      crop_shape: (H, W, C) of a crop of the first group.
      steps_per_epoch: updates per epoch.
      total_steps: updates of the run.
      accumulate_steps: passes per update.
      masking: masking of the global crops, None for none.
      grace_steps: steps with a frozen last layer or during warm-up (at most one epoch of it);
        features and targets are not meaningful yet.
    """

    roles: dict[str, Role]
    evaluated: str
    objectives: dict[str, Objective]
    optimizer: optax.GradientTransformationExtraArgs
    schedules: dict[str, Schedule]
    views: dict[str, int]
    crop_sizes: dict[str, tuple[int, int]]
    crop_shape: tuple[int, int, int]
    steps_per_epoch: int
    total_steps: int
    accumulate_steps: int
    masking: Masking | None
    grace_steps: int

    @property
    def learner(self) -> str:
        """Name of the role that learns."""
        return find_learner(self.roles)

    @property
    def network(self) -> Network:
        """Module of the evaluated role."""
        return self.roles[self.evaluated].network

    def init(self, rng: jax.Array) -> TrainState:
        """First state of the run; call it under jit."""
        return init_train_state(self.roles, self.objectives, self.optimizer, self.crop_shape, rng)

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
          log_every_steps: all metrics are measured at multiples of this, and at the last step.
          mesh: mesh that it runs on; None: one device.
          gradient_dtype: dtype in which devices sum gradients, a key of
            `placement.GRADIENT_DTYPES`.

        Raises:
          ValueError: if the dtype is unknown.
        """
        fit = partial(fit_to_mesh, mesh=mesh, gradient_dtype=gradient_dtype)
        return make_train_step(
            fit_roles(self.roles, fit),
            self.objectives,
            self.optimizer,
            build_measures(self.roles, self.evaluated, self.views),
            self.accumulate_steps,
            lambda step: (step % log_every_steps == 0) | (step == self.total_steps),
            self.crop_sizes,
        )


def check_channels(in_channels: int, data: Any) -> None:
    """Checks that images have the channels that the network takes.

    Args:
      in_channels: channels that it takes.
      data: `config.data`.

    Raises:
      ValueError: if they have others.
    """
    channels = build_decoding("config.data", data).channels
    if channels != in_channels:
        raise ValueError(
            f"config.data.channels ({channels}) must be those of the network, "
            f"config.network.backbone.in_channels ({in_channels}); try "
            f"--config.data.channels={in_channels}, or --config.network.backbone.in_channels="
            f"{channels} with as many numbers in config.network.mean and config.network.std"
        )


def build_recipe(
    config: Any, image_count: int, frozen: Mapping[str, Network] | None = None
) -> Recipe:
    """Builds all parts.

    Args:
      config: the whole config.
      image_count: images of the training set.
      frozen: modules of the frozen roles by name.

    Raises:
      ValueError: if something in the config is unknown, out of range or inconsistent.
    """
    steps_per_epoch, total_steps = count_steps(config, image_count)
    length = dict(total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    network, multi_crop = build_network(config.network), build_multi_crop(config.augment)
    check_channels(network.backbone.in_channels, config.data)
    groups = multi_crop.groups
    patch_size: int = network.backbone.patch_size
    check_patches(groups, patch_size)
    height, width = next(iter(groups.values())).size
    pass_size = config.batch_size // config.accumulate_steps
    roles = build_roles(config.roles, network, frozen or {}, **length)
    optimizer, rates = build_optimizer(config.optimizer, batch_size=config.batch_size, **length)
    grace_epochs = max(config.optimizer.freeze_last_layer_epochs, min(_warmup(config), 1.0))
    recipe = Recipe(
        roles=roles,
        evaluated=config.evaluated,
        objectives=build_objectives(
            config.objectives, network.heads, learner=find_learner(roles), **length
        ),
        optimizer=optimizer,
        schedules=rates,
        views=count_views(multi_crop.crops),
        crop_sizes={name: group.size for name, group in groups.items()},
        crop_shape=(height, width, network.backbone.in_channels),
        accumulate_steps=config.accumulate_steps,
        masking=build_masking(
            config.masking, groups=groups, patch_size=patch_size, batch_size=pass_size
        ),
        grace_steps=epochs_to_steps(grace_epochs, steps_per_epoch),
        **length,
    )
    check_recipe(recipe, multi_crop.crops, pass_size)
    return recipe


def _warmup(config: Any) -> float:
    """Epochs in which the learning rate warms up."""
    parts = config.optimizer.parts
    return parts["lr"].warmup_epochs if "lr" in parts else config.optimizer.warmup_epochs


def count_steps(config: Any, image_count: int) -> tuple[int, int]:
    """Updates per epoch, and of the whole run.

    Args:
      config: the whole config.
      image_count: images of the training set.

    Raises:
      ValueError: if there are none, or a number is out of range.
    """
    if config.batch_size > image_count:
        raise ValueError(
            f"batch_size ({config.batch_size}) is larger than the data set ({image_count} images); "
            "lower --config.batch_size or add images"
        )
    steps_per_epoch = config.steps_per_epoch or image_count // config.batch_size
    total_steps = epochs_to_steps(config.epochs, steps_per_epoch)
    if total_steps < 1:
        raise ValueError(f"config.epochs ({config.epochs}) gives no steps; use a larger number")
    if total_steps > MOST_INTEGER:
        raise ValueError(
            f"config.epochs ({config.epochs:g}) x {steps_per_epoch} steps per epoch are "
            f"{total_steps} steps, more than a run can count ({MOST_INTEGER}); lower "
            "--config.epochs or --config.steps_per_epoch"
        )
    return steps_per_epoch, total_steps


def check_recipe(recipe: Recipe, crops: Mapping[str, CropConfig], images: int) -> None:
    """Checks that roles, objectives and masks fit together.

    Args:
      recipe: recipe of the run.
      crops: sections of `config.augment.crops` by name.
      images: images of the global batch in one pass.

    Raises:
      ValueError: names what does not fit.
    """
    kept = in_state(recipe.roles)
    if recipe.evaluated not in kept:
        raise ValueError(
            f"config.evaluated is {recipe.evaluated!r}; roles of config.roles that are trained, "
            f"averaged or copied: {sorted(kept)}"
        )
    masks = recipe.masking.layout(images) if recipe.masking else {}
    check_roles(recipe.roles, crops, masks)
    check_needs(
        recipe.objectives,
        recipe.roles,
        crops,
        has_masks=bool(masks),
        images=images,
        accumulate_steps=recipe.accumulate_steps,
    )
    apart = keeps_views_apart(recipe.objectives)
    check_drop_path(recipe.roles, recipe.views, images, apart=apart)


def describe_recipe(recipe: Recipe, config: Any, state: TrainState) -> list[str]:
    """The lines that a run prints first: parameters, length and effective schedules.

    Args:
      recipe: recipe of the run.
      config: the whole config.
      state: state of the run, abstract or not.
    """
    counts = {
        name.replace("heads_", "head "): sum(leaf.size for leaf in jax.tree.leaves(tree))
        for name, tree in state.networks[recipe.learner]["params"].items()
    }
    parameters = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    optimizer = config.optimizer
    frozen = epochs_to_steps(optimizer.freeze_last_layer_epochs, recipe.steps_per_epoch)
    heads_alone = epochs_to_steps(optimizer.freeze_backbone_epochs, recipe.steps_per_epoch)
    last = recipe.total_steps - 1
    decay = recipe.schedules["weight_decay"]
    _, *followers = in_state(recipe.roles)
    return [
        f"parameters  {parameters}",
        f"length      {config.epochs:g} epochs x {recipe.steps_per_epoch} steps = "
        f"{recipe.total_steps} steps of {config.batch_size} images"
        + (f" in {recipe.accumulate_steps} passes" if recipe.accumulate_steps > 1 else ""),
        "lr          " + describe_rate(recipe, config),
        f"weights     decay {decay(0):g} to {decay(last):.3g}; "
        f"last layer frozen for {frozen} steps"
        + (f", backbone for {heads_alone}" if heads_alone else ""),
        *(f"{name:<11} {recipe.roles[name].follow.describe(last)}" for name in followers),
    ]


def describe_rate(recipe: Recipe, config: Any) -> str:
    """The learning rate of a run: how the batch scales it, and its way."""
    lr, optimizer, last = recipe.schedules["lr"], config.optimizer, recipe.total_steps - 1
    scaling = {"linear": "x", "sqrt": "x the root of"}[optimizer.lr_scaling]
    scale = f"{scaling} batch {config.batch_size} / {optimizer.reference_batch}"
    if isinstance(lr, Parts):
        base = optimizer.parts["lr"]
        return (
            f"base {base.peak:g}, then {base.end:g} {scale} = {lr.peak:g}, {lr.end:g}; line from "
            f"{lr.start:g} in {lr.warmup_steps} steps, cosine in {lr.cosine_steps}, then constant"
        )
    warmup = epochs_to_steps(optimizer.warmup_epochs, recipe.steps_per_epoch)
    peak = scale_learning_rate(
        optimizer.lr, config.batch_size, optimizer.reference_batch, optimizer.lr_scaling
    )
    return (
        f"base {optimizer.lr:g} {scale} = {peak:g}; "
        f"warm-up {warmup} steps, then cosine to {lr(last):.3g}"
    )
