"""Matrices of low rank beside the queries and values of all blocks (LoRA, arXiv:2106.09685, Eq. 3).

W x + (alpha / r) B A x; A is drawn (normal, variance 1 / D), B is zero, so that the first change is
none.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PARTS = {"query": 0, "value": 2}  # of the fused projection, which change

Factors = dict[str, dict[str, jax.Array]]


def init_factors(depth: int, dim: int, rank: int, key: jax.Array) -> Factors:
    """The first matrices of a stack of blocks.

    Args:
      depth: number of blocks.
      dim: D, width of the tokens.
      rank: r.
      key: of A.

    Returns:
      By part "a" [depth, D, r] and "b" [depth, r, D].

    Raises:
      ValueError: if r is larger than D.
    """
    if rank > dim:
        raise ValueError(f"a rank of {rank} is larger than the width of the network, {dim}")
    keys = jax.random.split(key, len(PARTS))
    return {
        name: {
            "a": jax.random.normal(key, (depth, dim, rank)) / np.sqrt(dim),
            "b": jnp.zeros((depth, rank, dim)),
        }
        for name, key in zip(PARTS, keys, strict=True)
    }


def change_of(factors: Any, scale: float) -> jax.Array:
    """[depth, D, 3 D] float32, what is added to the fused projection.

    Args:
      factors: as `init_factors` gives them.
      scale: alpha / r.
    """
    depth, _, dim = factors["query"]["b"].shape
    change = jnp.zeros((depth, dim, 3 * dim))
    for name, place in PARTS.items():
        added = jnp.matmul(factors[name]["a"], factors[name]["b"], precision="highest")
        change = change.at[:, :, place * dim : (place + 1) * dim].set(scale * added)
    return change
