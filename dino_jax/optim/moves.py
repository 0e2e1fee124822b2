"""What of the backbone moves: all of it, its last blocks, or matrices of low rank beside weights.

A transform around the update rule: only what moves has moments and decay, and what it changes comes
back as an update of the plain weights. So averages, checkpoints and evaluations see a network like
any other, and nothing has to be merged.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import KeyPath, tree_leaves_with_path, tree_map_with_path

from dino_jax.optim.low_rank import Factors, change_of, init_factors
from dino_jax.optim.parameter_groups import BACKBONE, FINAL_NORM, STACK, is_stacked, names

Transform = optax.GradientTransformationExtraArgs
Wrap = Callable[[optax.GradientTransformation], Transform]
FUSED = (BACKBONE, STACK, "attention", "qkv", "kernel")  # [depth, D, 3 D]


class LowRankState(NamedTuple):
    """State of `move_low_rank`.

    Attributes:
      factors: matrices by part.
      inner: state of the update rule.
    """

    factors: Any
    inner: optax.OptState


def move_last_blocks(count: int) -> Wrap:
    """Only the last blocks of the backbone and its final norm move.

    Args:
      count: number of blocks, >= 1.
    """

    def pick(tree: Any) -> Any:
        def take(path: KeyPath, leaf: jax.Array) -> Any:
            if is_stacked(path):
                return leaf[leaf.shape[0] - count :]
            return leaf if names(path)[1] == FINAL_NORM else optax.MaskedNode()

        return tree_map_with_path(take, tree)

    def wrap(rule: optax.GradientTransformation) -> Transform:
        inner = optax.with_extra_args_support(rule)

        def init(params: Any) -> optax.OptState:
            _check_depth(params, count)
            return inner.init(pick(params))

        def update(updates: Any, state: Any, params: Any = None, **extra: Any):
            moved, state = inner.update(pick(updates), state, pick(params), **extra)
            found = {tuple(names(path)): leaf for path, leaf in tree_leaves_with_path(moved)}

            def spread(path: KeyPath, leaf: jax.Array) -> jax.Array:
                new = found.get(tuple(names(path)))
                if new is None:
                    return jnp.zeros_like(leaf)
                return jnp.concatenate([jnp.zeros_like(leaf[: len(leaf) - len(new)]), new])

            return tree_map_with_path(spread, updates), state

        return Transform(init, update)

    return wrap


def move_low_rank(rank: int, alpha: float) -> Wrap:
    """Only matrices of low rank beside the queries and values of all blocks move.

    The gradient of the matrices follows from that of the weights by the chain rule, as the weights
    are linear in them. The first A is the same in every run.

    Args:
      rank: r, >= 1.
      alpha: of the factor alpha / r.
    """
    scale = alpha / rank

    def wrap(rule: optax.GradientTransformation) -> Transform:
        inner = optax.with_extra_args_support(rule)

        def init(params: Any) -> LowRankState:
            depth, dim = _fused_of(params, "optimizer.moves='lora'").shape[:2]
            factors = _as_tree(init_factors(depth, dim, rank, jax.random.key(0)))
            return LowRankState(factors, inner.init(factors))

        def update(updates: Any, state: Any, params: Any = None, **extra: Any):
            del params
            added: Any = jax.vjp(lambda tree: change_of(_factors_of(tree), scale), state.factors)
            change, pull = added
            (gradient,) = pull(_fused_of(updates, "optimizer.moves='lora'").astype(jnp.float32))
            steps, rest = inner.update(gradient, state.inner, state.factors, **extra)
            factors: Any = optax.apply_updates(state.factors, steps)
            moved = change_of(_factors_of(factors), scale) - change

            def spread(path: KeyPath, leaf: jax.Array) -> jax.Array:
                return moved if tuple(names(path)) == FUSED else jnp.zeros_like(leaf)

            return tree_map_with_path(spread, updates), LowRankState(factors, rest)

        return Transform(init, update)

    return wrap


def _as_tree(factors: Factors) -> Any:
    """The matrices at the place of the weights, so that rules of the stack apply to them."""
    return {BACKBONE: {STACK: factors}}


def _factors_of(tree: Any) -> Factors:
    return tree[BACKBONE][STACK]


def _fused_of(params: Any, where: str) -> jax.Array:
    """The fused projections of a tree of parameters.

    Raises:
      ValueError: if there are none.
    """
    for path, leaf in tree_leaves_with_path(params):
        if tuple(names(path)) == FUSED:
            return leaf
    raise ValueError(f"{where} needs a ViT, whose blocks have queries and values; use 'all'")


def _check_depth(params: Any, count: int) -> None:
    found = tree_leaves_with_path(params)
    depths = [leaf.shape[0] for path, leaf in found if is_stacked(path)]
    if not depths:
        raise ValueError("optimizer.moves='blocks' needs a ViT, which has blocks; use 'all'")
    if count > depths[0]:
        raise ValueError(f"optimizer.last_blocks is {count}; the network has {depths[0]} blocks")
