"""The optimizers of DINO as one optax transform: adamw, sgd or lars, with the official rules.

Three things differ from optax' own optimizers, all of them part of the official numerics
(facebookresearch/dino): schedules read the `step` that `update(grads, opt_state, params,
step=step)` is given, never a counter in the state (a step that is skipped rolls the state back,
the clock goes on); every norm is of one tensor of one layer, also where `nn.scan` stacks the
layers into one array; and while the last layer of a head is frozen, its moments and its Adam
counter stand still.
"""

from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import KeyPath, keystr, tree_map_with_path

from dino_jax import schedules
from dino_jax.schedules import Schedule

STACK = "blocks"  # the module whose leaves carry a leading depth axis from nn.scan
LAST_LAYER = "last_layer"  # the prototype layer of a projection head
KINDS = ("adamw", "lars", "sgd")

Optimizer = optax.GradientTransformationExtraArgs


def build_optimizer(
    config: Any, *, total_steps: int, steps_per_epoch: int, batch_size: int
) -> Optimizer:
    """Builds the optimizer of `config.optimizer`.

    Args:
      config: ConfigDict with kind ("adamw", "sgd" or "lars"), the fields of `build_schedules`,
        clip_grad (maximal L2 norm of each tensor's gradient, 0 for no clipping),
        freeze_last_layer_epochs, and b1, b2, eps (adamw), momentum (sgd and lars),
        trust_coefficient (lars).
      total_steps: Updates of the whole run.
      steps_per_epoch: Updates per epoch.
      batch_size: Images per update over all devices and accumulation steps.

    Returns:
      A transform whose `update` takes the finished updates as keyword: `update(grads, state,
      params, step=step)`.

    Raises:
      ValueError: if the kind is unknown or a value is out of its range.
    """
    rates = build_schedules(
        config, total_steps=total_steps, steps_per_epoch=steps_per_epoch, batch_size=batch_size
    )
    lr, weight_decay = rates["lr"], rates["weight_decay"]
    match config.kind:
        case "adamw":
            rule = make_adamw(lr, weight_decay, b1=config.b1, b2=config.b2, eps=config.eps)
        case "sgd":
            rule = make_sgd(lr, weight_decay, momentum=config.momentum)
        case "lars":
            rule = make_lars(
                lr,
                weight_decay,
                momentum=config.momentum,
                trust_coefficient=config.trust_coefficient,
            )
        case kind:
            raise ValueError(f"unknown optimizer kind {kind!r}; known: {', '.join(KINDS)}")
    frozen_steps = schedules.epochs_to_steps(config.freeze_last_layer_epochs, steps_per_epoch)
    return make_optimizer(rule, clip_norm=config.clip_grad, frozen_steps=frozen_steps)


def build_schedules(
    config: Any, *, total_steps: int, steps_per_epoch: int, batch_size: int
) -> dict[str, Schedule]:
    """Builds the schedules "lr" and "weight_decay" that the optimizer of `config.optimizer` uses.

    Args:
      config: ConfigDict with lr (base, at reference_batch images), reference_batch, min_lr (not
        scaled), warmup_epochs, weight_decay, weight_decay_end.
      total_steps: Updates of the whole run.
      steps_per_epoch: Updates per epoch.
      batch_size: Images per update over all devices and accumulation steps.

    Raises:
      ValueError: if a value is negative or the warm-up is longer than the run.
    """
    peak = schedules.scale_learning_rate(config.lr, batch_size, config.reference_batch)
    return {
        "lr": schedules.build_warmup_cosine(
            peak,
            config.min_lr,
            warmup_epochs=config.warmup_epochs,
            total_steps=total_steps,
            steps_per_epoch=steps_per_epoch,
        ),
        "weight_decay": schedules.build_cosine(
            config.weight_decay, config.weight_decay_end, total_steps=total_steps
        ),
    }


def make_optimizer(
    rule: optax.GradientTransformation, *, clip_norm: float, frozen_steps: int
) -> Optimizer:
    """Adds per-tensor clipping and the frozen last layer to an update rule.

    Args:
      rule: What turns clipped gradients into updates; has one state for the last layers and one
        for the rest.
      clip_norm: Maximal L2 norm of each tensor's gradient; 0 for no clipping.
      frozen_steps: Steps at the start in which leaves under "last_layer" do not move.

    Raises:
      ValueError: if a value is negative.
    """
    if not clip_norm >= 0:
        raise ValueError(f"clip_grad must be positive, or 0 for no clipping, got {clip_norm}")
    if frozen_steps < 0:
        raise ValueError(f"frozen_steps must not be negative, got {frozen_steps}")
    rules: dict[Hashable, optax.GradientTransformation] = {
        LAST_LAYER: frozen_until(rule, frozen_steps),
        "rest": rule,
    }
    partitioned = optax.partition(rules, _label_last_layer)
    return optax.chain(clip_tensors(clip_norm), partitioned) if clip_norm else partitioned


def make_adamw(
    lr: Schedule, weight_decay: Schedule, *, b1: float, b2: float, eps: float
) -> Optimizer:
    """AdamW (arXiv:1711.05101) as in torch: the decoupled decay is multiplied by the current rate.

    Raises:
      ValueError: if b1 or b2 is outside [0, 1) or eps is not positive.
    """
    _check_fraction(b1=b1, b2=b2)
    _check_positive(eps=eps)
    return optax.chain(
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps), add_decay(weight_decay), scale_by_rate(lr)
    )


def make_sgd(lr: Schedule, weight_decay: Schedule, *, momentum: float) -> Optimizer:
    """SGD with heavy-ball momentum and L2 decay in the gradient, as torch.

    Raises:
      ValueError: if momentum is outside [0, 1).
    """
    _check_fraction(momentum=momentum)
    return optax.chain(add_decay(weight_decay), optax.trace(momentum), scale_by_rate(lr))


def make_lars(
    lr: Schedule, weight_decay: Schedule, *, momentum: float, trust_coefficient: float
) -> Optimizer:
    """LARS (arXiv:1708.03888) as in DINO: trust ratio after the decay, 1-D tensors plain SGD.

    Raises:
      ValueError: if momentum is outside [0, 1) or the trust coefficient is not positive.
    """
    _check_fraction(momentum=momentum)
    _check_positive(trust_coefficient=trust_coefficient)
    return optax.chain(
        add_decay(weight_decay),
        scale_by_tensor_trust(trust_coefficient),
        optax.trace(momentum),
        scale_by_rate(lr),
    )


def is_stacked(path: KeyPath) -> bool:
    """Whether the leaf at `path` holds one tensor per layer along a leading depth axis."""
    return STACK in _names(path)


def tensor_rank(path: KeyPath, leaf: jax.Array) -> int:
    """Number of dimensions of the leaf, not counting the depth axis of a stack."""
    return jnp.ndim(leaf) - is_stacked(path)


def tensor_norms(path: KeyPath, leaf: jax.Array) -> jax.Array:
    """L2 norm of each tensor in a leaf: one for an ordinary leaf, one per layer for a stacked one.

    Returns:
      float32 with as many dimensions as `leaf`, all of size 1 but for the depth axis of a stack,
      so that it broadcasts against the leaf.
    """
    axes = tuple(range(int(is_stacked(path)), leaf.ndim))
    return jnp.sqrt(jnp.sum(jnp.square(leaf.astype(jnp.float32)), axis=axes, keepdims=True))


def is_decayed(path: KeyPath, leaf: jax.Array) -> bool:
    """Whether weight decay applies: to all but 1-D tensors and biases.

    So also to tokens, positions, prototypes and their gains, as in the official code.
    """
    return tensor_rank(path, leaf) != 1 and not _names(path)[-1].endswith("bias")


def clip_tensors(max_norm: float) -> optax.GradientTransformation:
    """Scales every tensor's gradient to an L2 norm of at most `max_norm`, each on its own."""

    def clip(path: KeyPath, grad: jax.Array) -> jax.Array:
        # The official coefficient, with its 1e-6: a norm just below max_norm is scaled too.
        return grad * jnp.minimum(max_norm / (tensor_norms(path, grad) + 1e-6), 1.0)

    return optax.stateless(lambda grads, params: tree_map_with_path(clip, grads))


def add_decay(weight_decay: Schedule) -> Optimizer:
    """Adds `weight_decay(step) * param` to the updates of the decayed tensors."""

    def update(updates: Any, state: Any, params: Any = None, **extra: Any):
        rate = weight_decay(_step(extra))

        def decay(path: KeyPath, u: jax.Array, param: jax.Array) -> jax.Array:
            return u + rate * param if is_decayed(path, param) else u

        return tree_map_with_path(decay, updates, params), state

    return Optimizer(optax.init_empty_state, update)


def scale_by_rate(lr: Schedule) -> Optimizer:
    """Multiplies the updates by `-lr(step)`."""

    def update(updates: Any, state: Any, params: Any = None, **extra: Any):
        del params
        rate = lr(_step(extra))
        return jax.tree.map(lambda u: -rate * u, updates), state

    return Optimizer(optax.init_empty_state, update)


def scale_by_tensor_trust(trust_coefficient: float) -> optax.GradientTransformation:
    """Scales by `trust_coefficient * ||param|| / ||update||` every tensor that is not 1-D.

    A tensor with one of the norms 0 stays as it is.
    """

    def scale(path: KeyPath, u: jax.Array, param: jax.Array) -> jax.Array:
        if tensor_rank(path, param) == 1:
            return u
        param_norm, update_norm = tensor_norms(path, param), tensor_norms(path, u)
        both = (param_norm > 0) & (update_norm > 0)
        ratio = trust_coefficient * param_norm / jnp.where(both, update_norm, 1.0)
        return u * jnp.where(both, ratio, 1.0)

    return optax.stateless(lambda updates, params: tree_map_with_path(scale, updates, params))


def frozen_until(inner: optax.GradientTransformation, first_step: int) -> Optimizer:
    """Gives zero updates and keeps the state of `inner` as it is for every `step < first_step`.

    So `inner` starts at `first_step` as if the run began there: no decay, no moments and no count
    before (torch skips a parameter whose gradient is None in the same way). The state is that of
    `inner`.
    """
    inner = optax.with_extra_args_support(inner)
    if first_step == 0:
        return inner

    def update(updates: Any, state: Any, params: Any = None, **extra: Any):
        active = _step(extra) >= first_step
        moved, next_state = inner.update(updates, state, params, **extra)
        moved = jax.tree.map(lambda u: jnp.where(active, u, jnp.zeros_like(u)), moved)
        kept = jax.tree.map(lambda new, old: jnp.where(active, new, old), next_state, state)
        return moved, kept

    return Optimizer(inner.init, update)


def _step(extra: dict[str, Any]) -> jax.Array:
    if "step" not in extra:
        raise TypeError("call update(grads, state, params, step=step) with the finished updates")
    return jnp.asarray(extra["step"])


def _names(path: KeyPath) -> list[str]:
    return keystr(path, simple=True, separator="/").split("/")


def _label_last_layer(params: Any) -> Any:
    return tree_map_with_path(
        lambda path, _: LAST_LAYER if LAST_LAYER in _names(path) else "rest", params
    )


def _check_fraction(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be at least 0 and below 1, got {value}")


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
