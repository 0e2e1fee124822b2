"""Counts the cycles of the kernels in a compiled step.

The TPU compiler estimates no cycles for Pallas kernels, but writes down their final instruction
bundles when it is asked to. They contain no loop but the grid, so a run takes as many cycles as
there are bundles, if it never waits for memory.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from dino_jax.devices.kernels.long_attention import cut
from dino_jax.devices.kernels.tiles import SUBLANES
from dino_jax.models.build import build_network
from dino_jax.plan.cost import trip_count
from dino_jax.plan.hlo import Instruction, Module

KERNELS = (
    *("attention_branch", "attention_branch_gradient"),
    *("mlp_branch", "mlp_branch_gradient"),
)
SPLASH = "splash_mha"  # how the names of jax' kernels for long sequences begin
_BUNDLES = re.compile(r"total scheduled bundles:\s+(\d+)")


class UncountedError(Exception):
    """The cycles of a kernel cannot be found out."""


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


@cache
def count_cycles(kernel: Kernel, topology: str) -> int:
    """Cycles of all runs over the crops of a device; seconds to a minute of CPU time.

    Args:
      kernel: the kernel.
      topology: name of the slice.

    Raises:
      UncountedError: if the compiler does not say them.
    """
    with tempfile.TemporaryDirectory() as folder:
        finished = subprocess.run(
            [sys.executable, "-m", "dino_jax.plan.kernel_program", topology, *map(str, kernel)],
            # The parent holds libtpu's lock; neither touches a chip.
            env={
                **os.environ,
                "LIBTPU_INIT_ARGS": f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true",
                "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
            },
            capture_output=True,
            text=True,
        )
        if finished.returncode:
            last = (finished.stderr.strip() or "no message").splitlines()[-1]
            raise UncountedError(f"{kernel.name} does not compile alone: {last}")
        schedules = Path(folder).glob(f"*-{kernel.name}.*schedule-analysis_final_bundles.txt")
        found = [_BUNDLES.search(path.read_text()) for path in schedules]
    if len(found) != 1 or found[0] is None:
        raise UncountedError(f"the compiler wrote {len(found)} schedules of {kernel.name}, not one")
    return int(found[0][1]) * int(finished.stdout.split()[-1])


def has_kernels(module: Module) -> bool:
    """Whether there is a Pallas kernel in it."""
    return any(
        "tpu_custom_call" in instruction.attributes
        for computation in module.computations.values()
        for instruction in computation.values()
    )


def find_kernels(module: Module, config: Any) -> Counter[Kernel]:
    """How often each kernel runs in a step.

    Args:
      module: the compiled step.
      config: the whole config.

    Raises:
      UncountedError: if there are others than those of a ViT.
    """
    if not has_kernels(module):
        return Counter()
    backbone: Any = build_network(config.network).backbone
    hidden = int(backbone.embed_dim * backbone.mlp_ratio)
    crops = config.augment.crops.values()
    grids = [[side // backbone.patch_size for side in part.size] for part in crops]
    counts = [1 + backbone.registers + height * width for height, width in grids]
    tokens = {-(-count // SUBLANES) * SUBLANES: count for count in counts}
    long = {(blocks := cut(count)).size * blocks.number: count for count in counts}
    runs: Counter[Kernel] = Counter()

    def count(name: str, padded: int, known: dict[int, int]) -> int:
        if padded not in known:
            raise UncountedError(f"{name} runs on {padded} tokens, and no crop has so many")
        return known[padded]

    def kernel(instruction: Instruction) -> Kernel:
        name = re.sub(r"\.\d+$", "", instruction.name)
        if name.startswith(SPLASH):
            shapes = (array.shape for array in instruction.arrays)
            crops, heads, padded, width = next(x for x in shapes if len(x) == 4)
            return Kernel(name, crops, count(name, padded, long), heads * width, hidden, heads)
        if name not in KERNELS:
            raise UncountedError(f"{name} is not one of our kernels")
        crops, padded, dim = instruction.arrays[0].shape
        return Kernel(name, crops, count(name, padded, tokens), dim, hidden, backbone.num_heads)

    def visit(name: str, times: int) -> None:
        for instruction in module.computations[name].values():
            if instruction.opcode == "while":
                visit(instruction.called("body")[0], times * (trip_count(instruction, module) or 1))
            elif instruction.opcode == "call":
                visit(instruction.called("to_apply")[0], times)
            elif "tpu_custom_call" in instruction.attributes:
                runs[kernel(instruction)] += times

    visit(module.entry, 1)
    return runs
