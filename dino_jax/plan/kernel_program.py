"""Compiles one kernel for one device: python -m dino_jax.plan.kernel_program SLICE NAME B T D F H.

Prints how often it runs for the crops of a device. libtpu reads its options when it is loaded, so
`kernels.count_cycles` starts a process for each kernel.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dino_jax.devices.kernels import attention_branch, mlp_branch
from dino_jax.devices.kernels.long_attention import cut, long_attention
from dino_jax.devices.kernels.tiles import SUBLANES, crops_per_run
from dino_jax.plan.kernels import SPLASH, Kernel
from dino_jax.plan.topology import open_slice

EPSILON = 1e-6  # of LayerNorms; no matter here


def compile_alone(topology: str, kernel: Kernel) -> int:
    """Compiles it for one device; returns the runs that its crops need."""
    mesh = Mesh(np.array(open_slice(topology).devices[:1]), ("data",))
    everywhere = NamedSharding(mesh, PartitionSpec())

    def array(*shape: int, dtype: Any = jnp.bfloat16) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=everywhere)

    def row(width: int) -> Any:
        return array(1, width, dtype=jnp.float32)

    if kernel.name.startswith(SPLASH):
        return compile_long_attention(kernel, mesh, array)
    padded = -(-kernel.tokens // SUBLANES) * SUBLANES
    dim, hidden = kernel.dim, kernel.hidden
    x = array(kernel.crops, padded, dim)
    inputs = [x, x] if kernel.name.endswith("gradient") else [x]
    inputs.append(array(kernel.crops, 1, 1, dtype=jnp.float32))
    if kernel.name.startswith("attention"):
        shape = attention_branch.Shape(kernel.heads, kernel.tokens, EPSILON)
        function = partial(getattr(attention_branch, kernel.name), shape=shape)
        layers = (array(dim, 3 * dim), row(3 * dim), array(dim, dim), row(dim))
        weights: Any = attention_branch.AttentionWeights(row(dim), row(dim), *layers)
    else:
        function = partial(getattr(mlp_branch, kernel.name), epsilon=EPSILON)
        layers = (array(dim, hidden), row(hidden), array(hidden, dim), row(dim))
        weights = mlp_branch.MlpWeights(row(dim), row(dim), *layers)
    _compile(lambda *arguments: function(*arguments), mesh, *inputs, weights)
    return kernel.crops // crops_per_run(kernel.crops, padded)


def compile_long_attention(kernel: Kernel, mesh: Any, array: Any) -> int:
    """Compiles attention over long sequences and its gradient, as `compile_alone` does."""

    def all_kernels(queries: Any, keys: Any, values: Any, gradient: Any) -> Any:
        """Forward passes without and with what the backward pass needs, and that."""
        mixed, back = jax.vjp(long_attention, queries, keys, values)
        return long_attention(queries, keys, values), mixed, back(gradient)

    crops, tokens, dim, heads = kernel.crops, kernel.tokens, kernel.dim, kernel.heads
    inputs = [array(crops, tokens, heads, dim // heads)] * 3
    _compile(all_kernels, mesh, *inputs, array(crops, tokens, dim))
    blocks = cut(tokens)
    return crops * heads * blocks.number * (blocks.number // blocks.together)


def _compile(function: Callable[..., Any], mesh: Mesh, *inputs: Any) -> None:
    whole = PartitionSpec()
    on_device = jax.shard_map(function, mesh=mesh, in_specs=whole, out_specs=whole, check_vma=False)
    jax.jit(on_device).lower(*inputs).compile()


if __name__ == "__main__":
    _, where, what, *numbers = sys.argv
    print(compile_alone(where, Kernel(what, *map(int, numbers))))
