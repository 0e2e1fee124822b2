"""What of a backbone moves: all of it, its last blocks, or matrices of low rank beside its weights.

Only what moves has a gradient and moments of the optimizer. `spread` puts it into the weights of
the backbone, so that what is handed out has plain weights only.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dino_jax.optim.low_rank import change_of, init_factors
from dino_jax.optim.parameter_groups import FINAL_NORM, STACK, lr_multipliers

Params = dict[str, Any]


class Moved(NamedTuple):
    """Parameters that move.

    Attributes:
      first: their first values.
      factors: of the learning rate, by parameter.
      spread: (their values, the frozen backbone) -> the backbone with them.
    """

    first: Params
    factors: Params
    spread: Callable[[Params, Params], Params]


def move_all(backbone: Params, layer_decay: float) -> Moved:
    """Everything; the rate falls by `layer_decay` from a block to the one before."""
    factors = lr_multipliers({"backbone": backbone}, layer_decay, 1.0)["backbone"]
    return Moved(backbone, factors, lambda moved, base: moved)


def move_last_blocks(backbone: Params, count: int, layer_decay: float) -> Moved:
    """The last blocks and the final norm.

    Raises:
      ValueError: if there are fewer blocks.
    """
    depth = depth_of(backbone)
    if count > depth:
        raise ValueError(f"--blocks={count}: the network has {depth} blocks")

    def pick(tree: Params) -> Params:
        return {
            STACK: jax.tree.map(lambda leaf: leaf[depth - count :], tree[STACK]),
            FINAL_NORM: tree[FINAL_NORM],
        }

    def spread(moved: Params, base: Params) -> Params:
        blocks = jax.tree.map(
            lambda old, new: jnp.concatenate([old[: depth - count], new]), base[STACK], moved[STACK]
        )
        return {**base, STACK: blocks, FINAL_NORM: moved[FINAL_NORM]}

    every = lr_multipliers({"backbone": backbone}, layer_decay, 1.0)["backbone"]
    return Moved(pick(backbone), pick(every), spread)


def move_low_rank(backbone: Params, rank: int, alpha: float, seed: int) -> Moved:
    """LoRA (arXiv:2106.09685, Eq. 3): W x + (alpha / r) B A x for queries and values of all blocks.

    A is drawn (normal, variance 1 / D), B is zero: the first network is the frozen one.

    Args:
      backbone: its parameters.
      rank: r.
      alpha: of the factor alpha / r.
      seed: of A.

    Raises:
      ValueError: if r is larger than the width.
    """
    depth_of(backbone)
    depth, dim = backbone[STACK]["attention"]["qkv"]["kernel"].shape[:2]
    if rank > dim:
        raise ValueError(f"--rank={rank}: the network is {dim} wide")
    first = init_factors(depth, dim, rank, jax.random.key(seed))

    def spread(moved: Params, base: Params) -> Params:
        attention = base[STACK]["attention"]
        kernel = jnp.asarray(attention["qkv"]["kernel"]) + change_of(moved, alpha / rank)
        qkv = {**attention["qkv"], "kernel": kernel}
        return {**base, STACK: {**base[STACK], "attention": {**attention, "qkv": qkv}}}

    return Moved(first, jax.tree.map(lambda _: np.float32(1), first), spread)


def depth_of(backbone: Params) -> int:
    """Number of blocks.

    Raises:
      ValueError: if there are none.
    """
    if STACK not in backbone:
        raise ValueError("blocks and LoRA need a ViT; tune an adapter on this network's vectors")
    return jax.tree.leaves(backbone[STACK])[0].shape[0]
