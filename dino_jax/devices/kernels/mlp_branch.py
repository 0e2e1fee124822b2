"""x + scale * MLP(LayerNorm(x)) as one TPU kernel; the hidden layer never leaves the chip.

The backward pass computes everything again from x, and adds up the gradients of the weights in
place.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dino_jax.devices.kernels.tiles import (
    column_sum,
    normalize,
    normalize_gradient,
    product,
    product_with_transposed,
    read_rows,
    run_over_crops,
    scale_rows,
    transposed_product,
    write_rows,
)


class MlpWeights(NamedTuple):
    """Weights of one branch; rows are [1, n] float32, matrices have the dtype of the products.

    Attributes:
      norm_scale: [1, D]
      norm_bias: [1, D]
      fc1: [D, F]
      fc1_bias: [1, F]
      fc2: [F, D]
      fc2_bias: [1, D]
    """

    norm_scale: jax.Array
    norm_bias: jax.Array
    fc1: jax.Array
    fc1_bias: jax.Array
    fc2: jax.Array
    fc2_bias: jax.Array


def mlp_branch(
    x: jax.Array,
    scale: jax.Array,
    weights: MlpWeights,
    epsilon: float,
    interpret: bool = False,
) -> jax.Array:
    """Adds the branch to the tokens.

    Args:
      x: [B, T, D], T a multiple of 8.
      scale: [B, 1, 1] float32, factor of the branch for every crop.
      weights: weights of the branch.
      epsilon: epsilon of the LayerNorm.
      interpret: runs without a TPU.
    """
    kernel = partial(_forward, epsilon)
    flops = _flops(x, weights, 2)
    (y,) = run_over_crops(kernel, "mlp_branch", [x, scale], weights, (), flops, interpret)
    return y


def mlp_branch_gradient(
    x: jax.Array,
    gradient: jax.Array,
    scale: jax.Array,
    weights: MlpWeights,
    epsilon: float,
    interpret: bool = False,
) -> tuple[jax.Array, MlpWeights]:
    """Gradients of x and, in float32, of the weights; arguments as `mlp_branch`."""
    d_x, *d_weights = run_over_crops(
        partial(_backward, epsilon),
        "mlp_branch_gradient",
        [x, gradient, scale],
        weights,
        weights,
        _flops(x, weights, 5),
        interpret,
    )
    return d_x, MlpWeights(*d_weights)


def _flops(x: jax.Array, weights: MlpWeights, products: int) -> int:
    """FLOPs of `products` products of all tokens with a matrix of the weights."""
    return 2 * products * x.shape[0] * x.shape[1] * weights.fc1.size


def _forward(epsilon, x_ref, scale, norm_scale, norm_bias, fc1, fc1_bias, fc2, fc2_bias, y_ref):
    x = read_rows(x_ref)
    normal, _ = normalize(x, epsilon)
    normed = (normal * norm_scale[...] + norm_bias[...]).astype(fc1.dtype)
    hidden = product(normed, fc1[...]) + fc1_bias[...]
    active = (hidden * _gate(hidden)).astype(fc2.dtype)
    branch = product(active, fc2[...]) + fc2_bias[...]
    write_rows(y_ref, x + scale_rows(branch, scale))


def _backward(epsilon, x_ref, gradient, scale, *references):
    norm_scale, norm_bias, fc1, fc1_bias, fc2, _ = references[:6]
    d_x, d_norm_scale, d_norm_bias, d_fc1, d_fc1_bias, d_fc2, d_fc2_bias = references[6:]
    normal, inverse = normalize(read_rows(x_ref), epsilon)
    normed = (normal * norm_scale[...] + norm_bias[...]).astype(fc1.dtype)
    hidden = product(normed, fc1[...]) + fc1_bias[...]
    gate = _gate(hidden)

    d_y = read_rows(gradient)
    d_branch = scale_rows(d_y, scale)
    d_fc2_bias[...] += column_sum(d_branch)
    d_branch = d_branch.astype(fc2.dtype)
    d_fc2[...] += transposed_product((hidden * gate).astype(fc2.dtype), d_branch)
    d_active = product_with_transposed(d_branch, fc2[...])
    d_hidden = d_active * (gate + hidden * _density(hidden))
    d_fc1_bias[...] += column_sum(d_hidden)
    d_hidden = d_hidden.astype(fc1.dtype)
    d_fc1[...] += transposed_product(normed, d_hidden)
    d_normed = product_with_transposed(d_hidden, fc1[...])
    d_norm_scale[...] += column_sum(d_normed * normal)
    d_norm_bias[...] += column_sum(d_normed)
    write_rows(d_x, d_y + normalize_gradient(d_normed * norm_scale[...], normal, inverse))


def _gate(x: jax.Array) -> jax.Array:
    """Distribution function of the normal distribution: GELU(x) = x * gate(x)."""
    return 0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5))


def _density(x: jax.Array) -> jax.Array:
    """Density of the normal distribution, the derivative of the gate."""
    return jnp.exp(-0.5 * jnp.square(x)) * (1.0 / math.sqrt(2.0 * math.pi))
