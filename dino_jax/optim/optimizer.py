"""The optimizers of DINO and DINOv2 as one optax transform: adamw, sgd or lars.

Three things differ from optax's own optimizers, all of them part of the official numerics
(facebookresearch/dino and dinov2): schedules read the `step` that `update(grads, opt_state, params,
step=step)` is given, never a counter in the state (a step that is skipped rolls the state back,
the clock continues); rules apply to one tensor of one layer, also where `nn.scan` stacks the layers
into one array (parameter_groups.py); the last layer of a head, and optionally the backbone, is
frozen for a while.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import optax

from dino_jax.config.range import MOST_EPOCHS, MOST_IMAGES
from dino_jax.config.section import named, option
from dino_jax.optim import schedules
from dino_jax.optim.moves import Wrap, move_last_blocks, move_low_rank
from dino_jax.optim.parameter_groups import BACKBONE, FIXED, LAST_LAYER, REST, label_frozen
from dino_jax.optim.parts import PartsConfig, take_parts
from dino_jax.optim.schedules import Schedule, check_positive
from dino_jax.optim.transforms import (
    add_decay,
    clip_modules,
    clip_tensors,
    held_until,
    scale_by_layer,
    scale_by_rate,
    scale_by_tensor_trust,
    skipped_until,
)

# Scope of a norm limit: every tensor, or the backbone and each head.
CLIPS = {"tensor": clip_tensors, "module": clip_modules}
# How a layer is frozen: "skip" hides the gradient from the optimizer, "zero_lr" updates the moments
# but not the weights. The gradient counts in clipping both ways.
FREEZES = {"skip": skipped_until, "zero_lr": held_until}

Optimizer = optax.GradientTransformationExtraArgs


@dataclass(frozen=True)
class AdamwConfig:
    b1: float = option(0.9, "decay of the first moment", at_least=0, below=1)
    b2: float = option(0.999, "decay of the second moment", at_least=0, below=1)
    eps: float = option(1e-8, "added to the root of the second moment", above=0, at_most=1)


@dataclass(frozen=True)
class SgdConfig:
    momentum: float = option(0.9, "heavy-ball momentum", at_least=0, below=1)


@dataclass(frozen=True)
class LarsConfig:
    momentum: float = option(0.9, "heavy-ball momentum", at_least=0, below=1)
    trust_coefficient: float = option(
        0.001, "update norm over parameter norm", above=0, at_most=1000
    )
    rate: Literal["outside", "in_momentum"] = option(
        "outside", "multiplies the momentum (DINO, BYOL, MoCo v3), or what goes into it (SimCLR)"
    )


@dataclass(frozen=True)
class OptimizerConfig:
    """The section `config.optimizer`."""

    kind: Literal["adamw", "sgd", "lars"] = option("adamw", "update rule")
    lr: float = option(
        5e-4, "at reference_batch images; see lr_scaling", at_least=0, at_most=10_000
    )
    reference_batch: int = option(
        256, "images for which lr is meant", at_least=1, at_most=MOST_IMAGES
    )
    lr_scaling: Literal["linear", "sqrt"] = option(
        "linear", "the peak is lr times batch_size / reference_batch, or its square root"
    )
    min_lr: float = option(1e-6, "at the end of the run; not scaled", at_least=0, at_most=10_000)
    warmup_epochs: float = option(
        10.0, "epochs in which the rate rises from 0", at_least=0, at_most=MOST_EPOCHS
    )
    warmup_peak: Literal["last", "after"] = option(
        "last", "step with the peak: the last one of the warm-up, or the first one after it (MoCo)"
    )
    weight_decay: float = option(0.04, "at the start", at_least=0, at_most=1000)
    weight_decay_end: float = option(0.4, "at the end of its cosine", at_least=0, at_most=1000)
    decayed: Literal["matrices", "all"] = option(
        "matrices", "what decays: all but 1-D tensors and biases, or all (AdamW of MoCo v3)"
    )
    layer_decay: float = option(
        1.0, "rate factor from a block to the one before", above=0, at_most=10
    )
    patch_embed_lr_multiplier: float = option(
        1.0, "rate factor of the patch embedding", above=0, at_most=1000
    )
    backbone_lr_multiplier: float = option(
        1.0, "rate factor of the backbone; the heads keep the rate", above=0, at_most=1e6
    )
    moves: Literal["all", "blocks", "lora"] = option(
        "all", "of the backbone: all, its last_blocks, or matrices of low rank (arXiv:2106.09685)"
    )
    last_blocks: int = option(2, "moves blocks: how many, with the final norm", at_least=1)
    lora_rank: int = option(8, "moves lora: of the matrices", at_least=1)
    lora_alpha: float = option(
        16.0, "moves lora: their factor, times lora_rank", above=0, at_most=1e6
    )
    clip_grad: float = option(
        3.0, "largest L2 norm of a gradient; 0: no limit", at_least=0, at_most=1e9
    )
    clip: Literal["tensor", "module"] = option(
        "tensor", "what is clipped: each tensor, or the backbone and each head"
    )
    freeze_backbone_epochs: float = option(
        0.0, "epochs in which the heads warm up alone", at_least=0, at_most=MOST_EPOCHS
    )
    freeze_last_layer_epochs: float = option(
        1.0, "epochs in which the prototypes do not move", at_least=0, at_most=MOST_EPOCHS
    )
    freeze: Literal["skip", "zero_lr"] = option(
        "skip", "a frozen last layer gets no gradient and no moments, or a learning rate of 0"
    )
    fixed: tuple[str, ...] = option(
        (), "parameters or modules that never move, such as patch_embed (MoCo v3)"
    )
    parts: dict[str, PartsConfig] = named(
        PartsConfig, {}, "schedules in three parts instead of those above: lr, weight_decay"
    )
    adamw: AdamwConfig = option(AdamwConfig(), "read by kind adamw")
    sgd: SgdConfig = option(SgdConfig(), "read by kind sgd")
    lars: LarsConfig = option(LarsConfig(), "read by kind lars")


def build_optimizer(
    config: OptimizerConfig, *, total_steps: int, steps_per_epoch: int, batch_size: int
) -> tuple[Optimizer, dict[str, Schedule]]:
    """Builds the optimizer of `config.optimizer`.

    Args:
      config: the section.
      total_steps: Updates of the whole run.
      steps_per_epoch: Updates per epoch.
      batch_size: Images per update over all devices and accumulation steps.

    Returns:
      A transform whose `update` takes the finished updates as keyword: `update(grads, state,
      params, step=step)`; and the schedules in it, "lr" and "weight_decay".

    Raises:
      ValueError: if a value is out of its range or the warm-up is longer than the run.
    """
    rates = _build_schedules(config, total_steps, steps_per_epoch, batch_size)
    frozen_steps, frozen_backbone_steps = (
        min(schedules.epochs_to_steps(epochs, steps_per_epoch), total_steps)
        for epochs in (config.freeze_last_layer_epochs, config.freeze_backbone_epochs)
    )
    _check_moves(config)
    build, decay = RULES[config.kind], rates["weight_decay"]
    optimizer = make_optimizer(
        build(config, rates["lr"], decay),
        backbone_rule=build(config, _times(config.backbone_lr_multiplier, rates["lr"]), decay),
        moves=MOVES[config.moves](config),
        clip_norm=config.clip_grad,
        clip=config.clip,
        frozen_steps=frozen_steps,
        frozen_backbone_steps=frozen_backbone_steps,
        freeze=config.freeze,
        layer_decay=config.layer_decay,
        patch_embed_lr_multiplier=config.patch_embed_lr_multiplier,
        fixed=config.fixed,
    )
    return optimizer, rates


def _times(factor: float, schedule: Schedule) -> Schedule:
    return schedule if factor == 1.0 else lambda step: factor * schedule(step)


def _check_moves(config: OptimizerConfig) -> None:
    """Raises a ValueError if rates by layer are asked for, where layers do not move themselves."""
    if config.moves == "lora" and config.layer_decay != 1.0:
        raise ValueError(
            f"config.optimizer.layer_decay ({config.layer_decay}) is for moves='all' or 'blocks'; "
            "matrices of low rank have one rate: use --config.optimizer.layer_decay=1.0"
        )


def _build_schedules(
    config: OptimizerConfig, total_steps: int, steps_per_epoch: int, batch_size: int
) -> dict[str, Schedule]:
    scale = schedules.scale_learning_rate(
        1.0, batch_size, config.reference_batch, config.lr_scaling
    )
    return take_parts(
        "config.optimizer.parts",
        config.parts,
        {
            "lr": lambda: schedules.build_warmup_cosine(
                config.lr * scale,
                config.min_lr,
                warmup_epochs=config.warmup_epochs,
                total_steps=total_steps,
                steps_per_epoch=steps_per_epoch,
                warmup_peak=config.warmup_peak,
            ),
            "weight_decay": lambda: schedules.build_cosine(
                config.weight_decay, config.weight_decay_end, total_steps=total_steps
            ),
        },
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        scales={"lr": scale},
    )


def make_optimizer(
    rule: optax.GradientTransformation,
    *,
    clip_norm: float,
    frozen_steps: int,
    frozen_backbone_steps: int = 0,
    clip: str = "tensor",
    freeze: str = "skip",
    layer_decay: float = 1.0,
    patch_embed_lr_multiplier: float = 1.0,
    fixed: Sequence[str] = (),
    backbone_rule: optax.GradientTransformation | None = None,
    moves: Wrap | None = None,
) -> Optimizer:
    """Adds clipping, the frozen last layer and rates by layer to an update rule.

    Args:
      rule: Turns clipped gradients into updates; the last layers, the backbone and the rest
        have separate states.
      clip_norm: Largest L2 norm of a gradient; 0 for no clipping.
      frozen_steps: Steps at the start in which leaves under "last_layer" do not move.
      frozen_backbone_steps: Steps at the start in which the backbone has no gradient, no moments
        and no decay: the heads warm up alone.
      clip: "tensor" (DINO) or "module" (DINOv2), see `CLIPS`.
      freeze: "skip" (DINO) or "zero_lr" (DINOv2), see `FREEZES`.
      layer_decay: See `lr_multipliers`; 1 for none.
      patch_embed_lr_multiplier: See `lr_multipliers`; 1 for none.
      fixed: Names of parameters and modules that never move and whose gradients count nowhere.
      backbone_rule: Rule of the backbone; None: `rule`.
      moves: Limits what of the backbone moves, see `moves`; None: everything. Gradients are clipped
        before.

    Raises:
      ValueError: if a name is unknown or a value out of range.
    """
    if not clip_norm >= 0:
        raise ValueError(f"clip_grad must be positive, or 0 for no clipping, got {clip_norm}")
    if min(frozen_steps, frozen_backbone_steps) < 0:
        raise ValueError(
            f"frozen_steps ({frozen_steps}) and frozen_backbone_steps ({frozen_backbone_steps}) "
            "must not be negative"
        )
    check_positive(layer_decay=layer_decay, patch_embed_lr_multiplier=patch_embed_lr_multiplier)
    clip_to, frozen_until = _lookup("clip", clip, CLIPS), _lookup("freeze", freeze, FREEZES)
    of_backbone = backbone_rule or rule
    if moves is not None:
        of_backbone = moves(of_backbone)
    rules: dict[Hashable, optax.GradientTransformation] = {
        LAST_LAYER: frozen_until(rule, frozen_steps),
        BACKBONE: skipped_until(of_backbone, frozen_backbone_steps),
        REST: rule,
    }
    if fixed:
        rules[FIXED] = optax.set_to_zero()
    label = partial(label_frozen, fixed=tuple(fixed))
    parts: list[optax.GradientTransformation] = [optax.partition(rules, label)]
    if clip_norm:
        parts.insert(0, clip_to(clip_norm))
    if fixed:  # before they can count in the norm of a module
        others = {name: optax.identity() for name in (LAST_LAYER, BACKBONE, REST)}
        parts.insert(0, optax.partition({**others, FIXED: optax.set_to_zero()}, label))
    if layer_decay != 1.0 or patch_embed_lr_multiplier != 1.0:
        parts.append(scale_by_layer(layer_decay, patch_embed_lr_multiplier))
    return optax.chain(*parts) if len(parts) > 1 else optax.with_extra_args_support(parts[0])


def make_adamw(
    lr: Schedule,
    weight_decay: Schedule,
    *,
    b1: float,
    b2: float,
    eps: float,
    decayed: str = "matrices",
) -> Optimizer:
    """AdamW (arXiv:1711.05101) as in torch: the decoupled decay is multiplied by the current rate.

    Raises:
      ValueError: if b1 or b2 is outside [0, 1) or eps is not positive.
    """
    _check_fraction(b1=b1, b2=b2)
    check_positive(eps=eps)
    return optax.chain(
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
        add_decay(weight_decay, decayed),
        scale_by_rate(lr),
    )


def make_sgd(
    lr: Schedule, weight_decay: Schedule, *, momentum: float, decayed: str = "matrices"
) -> Optimizer:
    """SGD with heavy-ball momentum and L2 decay in the gradient, as torch.

    Raises:
      ValueError: if momentum is outside [0, 1).
    """
    _check_fraction(momentum=momentum)
    return optax.chain(add_decay(weight_decay, decayed), optax.trace(momentum), scale_by_rate(lr))


def make_lars(
    lr: Schedule,
    weight_decay: Schedule,
    *,
    momentum: float,
    trust_coefficient: float,
    rate: str = "outside",
    decayed: str = "matrices",
) -> Optimizer:
    """LARS (arXiv:1708.03888) as in DINO: trust ratio after the decay, 1-D tensors plain SGD.

    Args:
      lr: schedule of the learning rate.
      weight_decay: schedule of the decay.
      momentum: heavy-ball momentum.
      trust_coefficient: norm of an update relative to that of its tensor.
      rate: "outside": the rate multiplies the momentum (DINO, BYOL, MoCo v3). "in_momentum": it is
        part of what the momentum sums up (SimCLR's TensorFlow), which differs while it changes.
      decayed: a key of `parameter_groups.DECAYED`.

    Raises:
      ValueError: if momentum is outside [0, 1) or the trust coefficient is not positive.
    """
    _check_fraction(momentum=momentum)
    check_positive(trust_coefficient=trust_coefficient)
    scale, sum_up = scale_by_rate(lr), optax.trace(momentum)
    last = {"outside": (sum_up, scale), "in_momentum": (scale, sum_up)}[rate]
    return optax.chain(
        add_decay(weight_decay, decayed), scale_by_tensor_trust(trust_coefficient), *last
    )


def _build_adamw(config: OptimizerConfig, lr: Schedule, weight_decay: Schedule) -> Optimizer:
    own = config.adamw
    return make_adamw(lr, weight_decay, b1=own.b1, b2=own.b2, eps=own.eps, decayed=config.decayed)


def _build_sgd(config: OptimizerConfig, lr: Schedule, weight_decay: Schedule) -> Optimizer:
    return make_sgd(lr, weight_decay, momentum=config.sgd.momentum, decayed=config.decayed)


def _build_lars(config: OptimizerConfig, lr: Schedule, weight_decay: Schedule) -> Optimizer:
    own = config.lars
    return make_lars(
        lr,
        weight_decay,
        momentum=own.momentum,
        trust_coefficient=own.trust_coefficient,
        rate=own.rate,
        decayed=config.decayed,
    )


RULES: dict[str, Callable[[OptimizerConfig, Schedule, Schedule], Optimizer]] = {
    "adamw": _build_adamw,
    "sgd": _build_sgd,
    "lars": _build_lars,
}


# What of the backbone moves; None: everything.
MOVES: dict[str, Callable[[OptimizerConfig], Wrap | None]] = {
    "all": lambda config: None,
    "blocks": lambda config: move_last_blocks(config.last_blocks),
    "lora": lambda config: move_low_rank(config.lora_rank, config.lora_alpha),
}


def _lookup(what: str, name: str, table: dict[str, Any]) -> Any:
    if name not in table:
        raise ValueError(f"unknown optimizer.{what} {name!r}; known: {sorted(table)}")
    return table[name]


def _check_fraction(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be at least 0 and below 1, got {value}")
