"""Shared parts of the kernels: products on the matrix unit, LayerNorm, and grids over crops.

All arrays in a kernel are float32, except the operands of products, which have the dtype of the
weights.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

LANES = 128  # numbers in a row of a register
SUBLANES = 8  # rows of a register: tokens of a crop are padded to a multiple
ROWS = 400  # target for one run of a kernel, which works on whole crops
VMEM_BYTES = 100 * 2**20  # a kernel may ask for; v5e and v6e have 128 MiB

_PLAIN = (((1,), (0,)), ((), ()))
_RIGHT = (((1,), (1,)), ((), ()))
_LEFT = (((0,), (0,)), ((), ()))


def product(a: jax.Array, b: jax.Array, dimensions=_PLAIN) -> jax.Array:
    """a @ b in float32; float32 operands are multiplied as such."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jax.lax.dot_general(
        a, b, dimensions, precision=precision, preferred_element_type=jnp.float32
    )


product_with_transposed = partial(product, dimensions=_RIGHT)  # a @ b.T
transposed_product = partial(product, dimensions=_LEFT)  # a.T @ b


def normalize(x: jax.Array, epsilon: float) -> tuple[jax.Array, jax.Array]:
    """LayerNorm of rows without its factors: [R, D] -> [R, D] and [R, 1] 1 / deviation."""
    centered = x - jnp.mean(x, axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(centered), axis=-1, keepdims=True) + epsilon)
    return centered * inverse, inverse


def normalize_gradient(gradient: jax.Array, normal: jax.Array, inverse: jax.Array) -> jax.Array:
    """Gradient of the rows from which `normalize` made `normal`."""
    mean = jnp.mean(gradient, axis=-1, keepdims=True)
    along = jnp.mean(gradient * normal, axis=-1, keepdims=True)
    return inverse * (gradient - mean - normal * along)


def column_sum(x: jax.Array) -> jax.Array:
    """[R, D] -> [1, D]"""
    return jnp.sum(x, axis=0, keepdims=True)


def crops_per_run(crops: int, tokens: int) -> int:
    """Number of crops that one run of a kernel works on; divides `crops`."""
    most = max(ROWS // tokens, 1)
    return next(count for count in range(most, 0, -1) if crops % count == 0)


def run_over_crops(
    kernel: Callable[..., None],
    name: str,
    per_crop: Sequence[jax.Array],
    whole: Sequence[jax.Array],
    sums: Sequence[jax.Array],
    flops: int,
    interpret: bool,
) -> tuple[jax.Array, ...]:
    """Runs a kernel over all crops, a few at a time.

    Args:
      kernel: takes references to all inputs, then to all outputs; it must add to sums, which are 0
        at first.
      name: for profiles.
      per_crop: [B, ...] inputs; the first one has the shape of the first output.
      whole: inputs that every run sees.
      sums: arrays with the shapes of the other outputs, float32.
      flops: FLOPs of the products of all crops, for the compiler and `dino_jax.plan`.
      interpret: runs without a TPU.
    """
    tokens = per_crop[0]
    count = crops_per_run(tokens.shape[0], tokens.shape[1])

    def few(x: jax.Array) -> pl.BlockSpec:
        return pl.BlockSpec((count, *x.shape[1:]), lambda run: (run, 0, 0))

    def all_of(x: jax.Array) -> pl.BlockSpec:
        once = pl.Buffered(1)  # it never changes, so there is nothing to fetch ahead
        return pl.BlockSpec(x.shape, lambda run: (0,) * x.ndim, pipeline_mode=once)

    def with_zeroed_sums(*references):
        if sums:

            @pl.when(pl.program_id(0) == 0)
            def _():
                for reference in references[-len(sums) :]:
                    reference[...] = jnp.zeros_like(reference)

        kernel(*references)

    order = "arbitrary" if sums else "parallel"
    return pl.pallas_call(
        with_zeroed_sums,
        name=name,
        grid=(tokens.shape[0] // count,),
        in_specs=[*map(few, per_crop), *map(all_of, whole)],
        out_specs=[few(tokens), *map(all_of, sums)],
        out_shape=[
            jax.ShapeDtypeStruct(tokens.shape, tokens.dtype),
            *(jax.ShapeDtypeStruct(x.shape, jnp.float32) for x in sums),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=(order,), vmem_limit_bytes=VMEM_BYTES
        ),
        cost_estimate=pl.CostEstimate(
            flops=flops,
            bytes_accessed=sum(x.size * x.dtype.itemsize for x in (*per_crop, *whole, tokens)),
            transcendentals=0,
        ),
        interpret=interpret,
    )(*per_crop, *whole)


def read_rows(crops) -> jax.Array:
    """A reference to [c, T, D] as [c * T, D] float32."""
    return crops[...].astype(jnp.float32).reshape(-1, crops.shape[2])


def write_rows(crops, rows: jax.Array) -> None:
    """Writes [c * T, D] float32 rows back to a reference to [c, T, D], in its dtype."""
    crops[...] = rows.reshape(crops.shape).astype(crops.dtype)


def scale_rows(rows: jax.Array, scales) -> jax.Array:
    """[c * T, D] times a reference to [c, 1, 1]."""
    count, dim = scales.shape[0], rows.shape[1]
    return (rows.reshape(count, -1, dim) * scales[...]).reshape(-1, dim)
