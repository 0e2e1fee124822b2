"""x + scale * attention(LayerNorm(x)) as one TPU kernel, for sequences that fit on the chip.

Neither the queries, keys and values nor anything of shape [T, T] ever leaves the chip; the backward
pass computes them again from x, and adds up the gradients of the weights in place.

Heads of 64 channels fill half of a register's 128 lanes. Neighboring heads are read together, and a
product in which the other head's lanes are zero is that of one head: the matrix unit multiplies 128
lanes in any case, and no lane has to move.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dino_jax.devices.kernels.tiles import (
    LANES,
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

MASKED = -1e30  # score of a key that is padding


class AttentionWeights(NamedTuple):
    """Weights of one branch; rows are [1, n] float32, matrices have the dtype of the products.

    Attributes:
      norm_scale: [1, D]
      norm_bias: [1, D]
      qkv: [D, 3D] all queries, then keys, then values; heads are contiguous inside each.
      qkv_bias: [1, 3D]
      proj: [D, D]
      proj_bias: [1, D]
    """

    norm_scale: jax.Array
    norm_bias: jax.Array
    qkv: jax.Array
    qkv_bias: jax.Array
    proj: jax.Array
    proj_bias: jax.Array


class Shape(NamedTuple):
    """Sizes that the weights do not show.

    Attributes:
      heads: H
      tokens: T of a crop; the rest is padding.
      epsilon: epsilon of the LayerNorm.
    """

    heads: int
    tokens: int
    epsilon: float


def attention_branch(
    x: jax.Array,
    scale: jax.Array,
    weights: AttentionWeights,
    shape: Shape,
    interpret: bool = False,
) -> jax.Array:
    """Adds the branch to the tokens.

    Args:
      x: [B, P, D], P a multiple of 8; tokens from `shape.tokens` on are padding.
      scale: [B, 1, 1] float32, factor of the branch for every crop.
      weights: weights of the branch.
      shape: sizes of the attention, and its epsilon.
      interpret: runs without a TPU.
    """
    kernel = partial(_forward, shape)
    flops = _flops(x, weights, 1, 2)
    (y,) = run_over_crops(kernel, "attention_branch", [x, scale], weights, (), flops, interpret)
    return y


def attention_branch_gradient(
    x: jax.Array,
    gradient: jax.Array,
    scale: jax.Array,
    weights: AttentionWeights,
    shape: Shape,
    interpret: bool = False,
) -> tuple[jax.Array, AttentionWeights]:
    """Gradients of x and, in float32, of the weights; arguments as `attention_branch`.

    The gradient of padding must be 0; then that of x is 0 there, too.
    """
    d_x, *d_weights = run_over_crops(
        partial(_backward, shape),
        "attention_branch_gradient",
        [x, gradient, scale],
        weights,
        weights,
        _flops(x, weights, 3, 6) - 2 * x.size * x.shape[2],  # the output is not computed again
        interpret,
    )
    return d_x, AttentionWeights(*d_weights)


def _flops(x: jax.Array, weights: AttentionWeights, projections: int, mixes: int) -> int:
    """FLOPs of the products.

    Args:
      x: [B, P, D]
      weights: weights of the branch.
      projections: products of all tokens with both matrices of the weights.
      mixes: products of a [P, P] and a [P, D] array.
    """
    crops, tokens, dim = x.shape
    matrices = weights.qkv.size + weights.proj.size
    return 2 * crops * tokens * (projections * matrices + mixes * tokens * dim)


def _forward(shape, x_ref, scale, norm_scale, norm_bias, qkv, qkv_bias, proj, proj_bias, y_ref):
    x = read_rows(x_ref)
    normal, _ = normalize(x, shape.epsilon)
    normed = (normal * norm_scale[...] + norm_bias[...]).astype(qkv.dtype)
    projected = product(normed, qkv[...]) + qkv_bias[...]
    mixed = [_mix(rows, shape, qkv.dtype) for rows in _crops(projected, x_ref.shape[0])]
    branch = product(jnp.concatenate(mixed).astype(proj.dtype), proj[...]) + proj_bias[...]
    write_rows(y_ref, x + scale_rows(branch, scale))


def _backward(shape, x_ref, gradient, scale, *references):
    norm_scale, norm_bias, qkv, qkv_bias, proj, _ = references[:6]
    d_x, d_norm_scale, d_norm_bias, d_qkv, d_qkv_bias, d_proj, d_proj_bias = references[6:]
    count = x_ref.shape[0]
    normal, inverse = normalize(read_rows(x_ref), shape.epsilon)
    normed = (normal * norm_scale[...] + norm_bias[...]).astype(qkv.dtype)
    projected = product(normed, qkv[...]) + qkv_bias[...]

    d_y = read_rows(gradient)
    d_branch = scale_rows(d_y, scale)
    d_proj_bias[...] += column_sum(d_branch)
    d_branch = d_branch.astype(proj.dtype)
    d_mixed = product_with_transposed(d_branch, proj[...])
    pairs = [
        _mix_gradient(rows, d_rows, shape, qkv.dtype)
        for rows, d_rows in zip(_crops(projected, count), _crops(d_mixed, count), strict=True)
    ]
    mixed, d_projected = (jnp.concatenate(parts) for parts in zip(*pairs, strict=True))
    d_proj[...] += transposed_product(mixed.astype(proj.dtype), d_branch)
    d_qkv_bias[...] += column_sum(d_projected)
    d_projected = d_projected.astype(qkv.dtype)
    d_qkv[...] += transposed_product(normed, d_projected)
    d_normed = product_with_transposed(d_projected, qkv[...])
    d_norm_scale[...] += column_sum(d_normed * normal)
    d_norm_bias[...] += column_sum(d_normed)
    write_rows(d_x, d_y + normalize_gradient(d_normed * norm_scale[...], normal, inverse))


def _mix(rows: jax.Array, shape: Shape, dtype) -> jax.Array:
    """Queries, keys and values [P, 3D] of a crop -> mixed values [P, D]."""
    groups = []
    for (q, k, v), masks in _lane_groups(rows, shape.heads, dtype):
        heads = [_mix_head(_keep(q, mask), k, v, rows, shape)[0] for mask in masks]
        groups.append(_choose(heads, masks))
    return jnp.concatenate(groups, axis=-1)


def _mix_head(q, k, v, rows, shape):
    """Mixed values and probabilities of one head."""
    head_dim = rows.shape[1] // 3 // shape.heads
    scores = product_with_transposed(q, k) * head_dim**-0.5
    if shape.tokens < rows.shape[0]:
        key = jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1)
        scores = jnp.where(key < shape.tokens, scores, MASKED)
    exponentials = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    total = 1.0 / jnp.sum(exponentials, axis=-1, keepdims=True)
    probabilities = exponentials * total
    return product(probabilities.astype(v.dtype), v), probabilities


def _mix_gradient(rows, d_mixed, shape, dtype) -> tuple[jax.Array, jax.Array]:
    """Mixed values [P, D] once more, and the gradient [P, 3D] of queries, keys and values."""
    head_dim = rows.shape[1] // 3 // shape.heads
    mixed, grads = [], ([], [], [])
    groups = _lane_groups(rows, shape.heads, dtype)
    for index, ((q, k, v), masks) in enumerate(groups):
        width = q.shape[1]
        d_group = d_mixed[:, index * width : (index + 1) * width]
        of_heads = []
        for mask in masks:
            q_head, d_head = _keep(q, mask), _keep(d_group, mask)
            mixed_head, p = _mix_head(q_head, k, v, rows, shape)
            along = jnp.sum(d_head * mixed_head, axis=-1, keepdims=True)  # = sum(d_p * p)
            d_head = d_head.astype(dtype)
            d_p = product_with_transposed(d_head, v)
            d_s = (p * (d_p - along) * head_dim**-0.5).astype(dtype)
            d_v = transposed_product(p.astype(dtype), d_head)
            of_heads.append((mixed_head, product(d_s, k), transposed_product(d_s, q_head), d_v))
        for parts, one in zip((mixed, *grads), zip(*of_heads, strict=True), strict=True):
            parts.append(_choose(one, masks))
    return (
        jnp.concatenate(mixed, axis=-1),
        jnp.concatenate([part for parts in grads for part in parts], axis=-1),
    )


def _crops(rows: jax.Array, count: int) -> list[jax.Array]:
    tokens = rows.shape[0] // count
    return [rows[crop * tokens : (crop + 1) * tokens] for crop in range(count)]


def _lane_groups(rows: jax.Array, heads: int, dtype) -> Iterator:
    """Queries, keys and values of the heads that fill the lanes together, and each head's lanes."""
    dim = rows.shape[1] // 3
    head_dim = dim // heads
    together = LANES // head_dim if dim % LANES == 0 and head_dim < LANES else 1
    width = together * head_dim
    lane = jax.lax.broadcasted_iota(jnp.int32, (1, width), 1)
    masks = [lane // head_dim == head for head in range(together)] if together > 1 else [None]
    for start in range(0, dim, width):
        parts = [rows[:, i * dim + start : i * dim + start + width].astype(dtype) for i in range(3)]
        yield parts, masks


def _keep(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    return x if mask is None else jnp.where(mask, x, 0)


def _choose(heads, masks) -> jax.Array:
    """Every head's own lanes."""
    chosen = heads[0]
    for head, mask in zip(heads[1:], masks[1:], strict=True):
        chosen = jnp.where(mask, head, chosen)
    return chosen
