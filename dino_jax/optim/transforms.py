"""Optax transforms from which optimizers are made; they know the parameter tree and the step."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import KeyPath, tree_map_with_path

from dino_jax.optim.parameter_groups import DECAYED, lr_multipliers, tensor_norms, tensor_rank
from dino_jax.optim.schedules import Schedule

Transform = optax.GradientTransformationExtraArgs


def clip_tensors(max_norm: float) -> optax.GradientTransformation:
    """Scales every tensor's gradient to an L2 norm of at most `max_norm`, each separately."""

    def clip(path: KeyPath, grad: jax.Array) -> jax.Array:
        # The official coefficient, with its 1e-6: a norm just below max_norm is scaled too.
        return grad * jnp.minimum(max_norm / (tensor_norms(path, grad) + 1e-6), 1.0)

    return optax.stateless(lambda grads, params: tree_map_with_path(clip, grads))


def clip_modules(max_norm: float) -> optax.GradientTransformation:
    """Scales the gradient of the backbone and that of each head to an L2 norm of `max_norm`."""

    def clip(module: Any) -> Any:
        scale = jnp.minimum(max_norm / (optax.tree.norm(module) + 1e-6), 1.0)
        return jax.tree.map(lambda grad: grad * scale, module)

    def clip_each(modules: Any, params: Any) -> Any:
        del params
        return {name: clip(module) for name, module in modules.items()}

    return optax.stateless(clip_each)


def add_decay(weight_decay: Schedule, decayed: str = "matrices") -> Transform:
    """Adds `weight_decay(step) * param` to the updates of the tensors of a key of `DECAYED`."""
    is_decayed = DECAYED[decayed]

    def update(updates: Any, state: Any, params: Any = None, **extra: Any):
        rate = weight_decay(_step(extra))

        def decay(path: KeyPath, u: jax.Array, param: jax.Array) -> jax.Array:
            return u + rate * param if is_decayed(path, param) else u

        return tree_map_with_path(decay, updates, params), state

    return Transform(optax.init_empty_state, update)


def scale_by_rate(lr: Schedule) -> Transform:
    """Multiplies the updates by `-lr(step)`."""

    def update(updates: Any, state: Any, params: Any = None, **extra: Any):
        del params
        rate = lr(_step(extra))
        return jax.tree.map(lambda u: -rate * u, updates), state

    return Transform(optax.init_empty_state, update)


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


def scale_by_layer(layer_decay: float, patch_embed: float) -> optax.GradientTransformation:
    """Multiplies the updates, so also the decay in them, by `lr_multipliers`."""

    def scale(updates: Any, params: Any) -> Any:
        del params
        factors = lr_multipliers(updates, layer_decay, patch_embed)
        return jax.tree.map(lambda u, factor: u * factor, updates, factors)

    return optax.stateless(scale)


def skipped_until(inner: optax.GradientTransformation, first_step: int) -> Transform:
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
        kept = jax.tree.map(lambda new, old: jnp.where(active, new, old), next_state, state)
        return _where(active, moved), kept

    return Transform(inner.init, update)


def held_until(inner: optax.GradientTransformation, first_step: int) -> Transform:
    """Gives zero updates for every `step < first_step`, as with a learning rate of 0.

    The state of `inner` moves with the gradients from the first step on.
    """
    inner = optax.with_extra_args_support(inner)
    if first_step == 0:
        return inner

    def update(updates: Any, state: Any, params: Any = None, **extra: Any):
        moved, state = inner.update(updates, state, params, **extra)
        return _where(_step(extra) >= first_step, moved), state

    return Transform(inner.init, update)


def _where(active: jax.Array, updates: Any) -> Any:
    return jax.tree.map(lambda u: jnp.where(active, u, jnp.zeros_like(u)), updates)


def _step(extra: dict[str, Any]) -> jax.Array:
    if "step" not in extra:
        raise TypeError("call update(grads, state, params, step=step) with the finished updates")
    return jnp.asarray(extra["step"])
