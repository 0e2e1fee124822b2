"""Products with operands in bfloat16 and results in float32, for CPUs that have them.

A CPU adds, exponentiates and normalizes in float32 only: a network of bfloat16 activations converts
forth and back around every operation. What processors with AVX512-BF16 or AMX do have are products
of bfloat16 numbers that are summed in float32, at twice the rate of float32. So a network of
bfloat16 activations computes with float32 ones on a CPU, and only the operands of its products are
rounded, in both directions of a step.

XLA:CPU (jax 0.10 to 0.12) has these products for rows times columns only. It folds transpositions
into the products beside them, which then are float32 ones, or fail; `_turn` is one that it leaves
alone.
"""

from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

CPU_FLAGS = {"avx512_bf16", "amx_bf16"}  # of x86; others were not tried
BLOCK = 8  # columns that `_turn` moves together


@cache
def multiplies_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor of this machine multiplies bfloat16 numbers.

    Args:
      cpuinfo: what Linux says about it; without the file the answer is no.
    """
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith("flags")), "")
    return not CPU_FLAGS.isdisjoint(flags.split())


def rounded_matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[..., D] x [D, E] -> [..., E] float32, of operands rounded to bfloat16.

    The gradients are such products too: that of the result is rounded as well.
    """
    rows = _matmul(x.reshape(-1, x.shape[-1]), kernel)
    return rows.reshape(*x.shape[:-1], kernel.shape[1])


def rounded_dot_general(
    x: jax.Array, kernel: jax.Array, dimension_numbers: Any, precision: Any = None
) -> jax.Array:
    """`rounded_matmul` as `flax.linen.Dense` calls it."""
    del dimension_numbers, precision
    return rounded_matmul(x, kernel)


def takes_rounded_attention(tokens: int, head_dim: int) -> bool:
    """Whether `rounded_attend` takes such heads."""
    return tokens > 1 and head_dim % BLOCK == 0


def rounded_attend(
    queries: jax.Array, keys: jax.Array, values: jax.Array
) -> tuple[jax.Array, None]:
    """`attention.attend` with rounded operands; no weights, which it computes again for gradients.

    Args:
      queries: [B, N, H, d], see `takes_rounded_attention`.
      keys: likewise.
      values: likewise.

    Returns:
      [B, N, D] float32 mixed values, and None.
    """
    mixed = _attend(*(x.swapaxes(1, 2) for x in (queries, keys, values))).swapaxes(1, 2)
    return checkpoint_name(mixed.reshape(*mixed.shape[:2], -1), "attention"), None


@jax.custom_vjp
def _matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[M, D] x [D, E] -> [M, E]"""
    return _multiply("md,de->me", _round(x), _round(kernel))


def _matmul_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple]:
    x, kernel = _round(x), _round(kernel)
    return _multiply("md,de->me", x, kernel), (x, kernel)


def _matmul_backward(kept: tuple, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    gradient = _round(gradient)
    return _multiply("me,de->md", gradient, kernel), _kernel_gradient(x, gradient)


_matmul.defvjp(_matmul_forward, _matmul_backward)


def _kernel_gradient(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """[M, D] and [M, E] -> [D, E]; turns the narrower one."""
    dim, out = x.shape[1], gradient.shape[1]
    if dim % BLOCK or out % BLOCK:
        return jnp.einsum("md,me->de", x.astype(jnp.float32), gradient.astype(jnp.float32))
    if dim <= out:
        return _multiply("dm,me->de", _turn(x), gradient)
    return _turn(_multiply("em,md->ed", _turn(gradient), x))


@jax.custom_vjp
def _attend(queries: jax.Array, keys: jax.Array, values: jax.Array) -> jax.Array:
    """[B, H, N, d] each -> [B, H, N, d] mixed values."""
    return _mix(_weigh(_round(queries), _round(keys)), _round(values))


def _attend_forward(*operands: jax.Array) -> tuple[jax.Array, tuple]:
    queries, keys, values = map(_round, operands)
    return _mix(_weigh(queries, keys), values), (queries, keys, values)


def _attend_backward(kept: tuple, gradient: jax.Array) -> tuple[jax.Array, ...]:
    queries, keys, values = kept
    gradient, weights = _round(gradient), _weigh(queries, keys)
    d_weights = _multiply("bhqd,bhkd->bhqk", gradient, values)
    d_scores = weights * (d_weights - jnp.sum(weights * d_weights, axis=-1, keepdims=True))
    d_scores = _round(d_scores * queries.shape[-1] ** -0.5)
    return (
        _multiply("bhqk,bhkd->bhqd", d_scores, keys),
        _turn(_multiply("bhdq,bhqk->bhdk", _turn(queries), d_scores)),
        _turn(_multiply("bhdq,bhqk->bhdk", _turn(gradient), _round(weights))),
    )


_attend.defvjp(_attend_forward, _attend_backward)


def _weigh(queries: jax.Array, keys: jax.Array) -> jax.Array:
    """[B, H, N, N] float32 softmax over the keys."""
    scores = _multiply("bhqd,bhkd->bhqk", queries, keys)
    return jax.nn.softmax(scores * queries.shape[-1] ** -0.5, axis=-1)


def _mix(weights: jax.Array, values: jax.Array) -> jax.Array:
    return _multiply("bhqk,bhkd->bhqd", _round(weights), values)


def _round(x: jax.Array) -> jax.Array:
    return x.astype(jnp.bfloat16)


def _multiply(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """The float32 product of bfloat16 arrays."""
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)


def _turn(x: jax.Array) -> jax.Array:
    """[..., M, N] -> [..., N, M] by blocks, where `BLOCK` divides M or N."""
    *lead, rows, columns = x.shape
    first = len(lead)
    if columns % BLOCK == 0:
        blocks = x.reshape(*lead, rows, columns // BLOCK, BLOCK)
        axes = (first + 1, first + 2, first)
    else:
        blocks = x.reshape(*lead, rows // BLOCK, BLOCK, columns)
        axes = (first + 2, first, first + 1)
    return blocks.transpose(*range(first), *axes).reshape(*lead, columns, rows)
