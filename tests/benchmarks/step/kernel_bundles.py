"""Counts the instructions of a kernel: python -m tests.benchmarks.step.kernel_bundles …

The TPU compiler estimates no cycles for Pallas kernels, but writes down their final instruction
bundles when it is asked to. They contain no loop but the grid, so a run takes as many cycles as
there are bundles, if it never waits for memory. A process of its own, because libtpu reads its
options when it is loaded.
"""

import os
import re
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

SPLASH = "splash_mha"  # how the names of jax' kernels for long sequences begin
EPSILON = 1e-6  # of LayerNorms; no matter here
BUNDLES = re.compile(r"total scheduled bundles:\s+(\d+)")


class Kernel(NamedTuple):
    """A kernel as one device runs it.

    Attributes:
      name: of the function, such as "mlp_branch_gradient".
      crops: B on the device.
      tokens: T of a crop, without padding.
      dim: D
      hidden: F of the MLP.
      heads: H
    """

    name: str
    crops: int
    tokens: int
    dim: int
    hidden: int
    heads: int


def count_cycles(kernel: Kernel, topology: str) -> int:
    """Cycles of all runs over the crops of a device; seconds to a minute of CPU time."""
    with tempfile.TemporaryDirectory() as folder:
        options = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
        command = [sys.executable, "-m", "tests.benchmarks.step.kernel_bundles", topology]
        output = subprocess.run(
            [*command, *map(str, kernel)],
            # The parent holds libtpu's lock; neither touches a chip.
            env={
                **os.environ,
                "LIBTPU_INIT_ARGS": options,
                "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
            },
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        found = [
            int(BUNDLES.search(path.read_text())[1])  # pyright: ignore
            for path in Path(folder).glob(f"*-{kernel.name}.*schedule-analysis_final_bundles.txt")
        ]
    if len(found) != 1:
        raise RuntimeError(f"{len(found)} schedules of {kernel.name} instead of one")
    return found[0] * int(output.split()[-1])


def compile_alone(topology: str, kernel: Kernel) -> int:
    """Compiles it for one device; returns the runs that its crops need."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from dino_jax.devices.kernels import attention_branch, mlp_branch
    from dino_jax.devices.kernels.tiles import SUBLANES, crops_per_run
    from dino_jax.plan.topology import open_slice

    mesh = Mesh(np.array(open_slice(topology).devices[:1]), ("data",))
    everywhere = NamedSharding(mesh, PartitionSpec())

    def array(*shape: int, dtype: Any = jnp.bfloat16) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=everywhere)

    def row(width: int) -> jax.ShapeDtypeStruct:
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
    on_device = jax.shard_map(
        lambda *arguments: function(*arguments),
        mesh=mesh,
        in_specs=PartitionSpec(),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    jax.jit(on_device).lower(*inputs, weights).compile()
    return kernel.crops // crops_per_run(kernel.crops, padded)


def compile_long_attention(kernel: Kernel, mesh: Any, array: Any) -> int:
    """Compiles attention over long sequences and its gradient, as `compile_alone` does."""
    import jax

    from dino_jax.devices.kernels.long_attention import cut, long_attention

    attention = partial(long_attention, mesh=mesh)

    def all_kernels(queries: Any, keys: Any, values: Any, gradient: Any) -> Any:
        """Forward passes without and with what the backward pass needs, and that."""
        mixed, back = jax.vjp(attention, queries, keys, values)
        return attention(queries, keys, values), mixed, back(gradient)

    crops, tokens, dim, heads = kernel.crops, kernel.tokens, kernel.dim, kernel.heads
    inputs = [array(crops, tokens, heads, dim // heads)] * 3
    jax.jit(all_kernels).lower(*inputs, array(crops, tokens, dim)).compile()
    blocks = cut(tokens)
    return crops * heads * blocks.number * (blocks.number // blocks.together)


if __name__ == "__main__":
    _, where, what, *numbers = sys.argv
    print(compile_alone(where, Kernel(what, *map(int, numbers))))
