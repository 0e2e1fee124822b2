"""The train step by the TPU compiler's own count, for a slice that need not be there."""

import re
import time
from collections import Counter
from typing import Any

from dino_jax.config.change import change
from dino_jax.devices.kernels.long_attention import cut
from dino_jax.devices.kernels.tiles import SUBLANES
from dino_jax.models.build import build_network
from dino_jax.plan.cost import Cost, module_cost, trip_count
from dino_jax.plan.hlo import Module, parse_module
from dino_jax.plan.model_flops import model_flops_per_image
from dino_jax.plan.program import GIB, lower_step
from dino_jax.plan.topology import open_slice
from dino_jax.run.whole_config import Config
from tests.benchmarks.step.cases import IMAGES
from tests.benchmarks.step.kernel_bundles import SPLASH, Kernel, count_cycles

HEADER = (
    "| slice | images per chip | memory, GiB | XLA, ms | kernels, ms | step, ms | MFU | "
    "HBM, GB | collectives, MB | trace, s | compile, CPU s |"
)


def measure(config: Config, topology: str, per_chip: int) -> str:
    """A row of the table.

    Args:
      config: its batch size is replaced.
      topology: such as "v5e:4x4".
      per_chip: images per device.

    Raises:
      ValueError: if the config does not fit the slice, or Google does not publish its clock.
    """
    tpu_slice = open_slice(topology)
    if tpu_slice.chip.clock is None:
        raise ValueError(f"the clock of {tpu_slice.chip.name} is not published; try v5e or v5p")
    devices = len(tpu_slice.devices)
    config = change(config, {"batch_size": per_chip * devices})
    start = time.process_time()
    lowered, _ = lower_step(config, IMAGES, tpu_slice.devices)
    traced = time.process_time()
    compiled = lowered.compile()
    seconds = time.process_time() - traced
    module = parse_module(compiled.as_text())
    cost = module_cost(module, devices)
    kernels = count_kernels(module, config)
    cycles = sum(count_cycles(kernel, topology) * runs for kernel, runs in kernels.items())
    of_xla, of_kernels = (1e3 * count / tpu_slice.chip.clock for count in (cost.cycles, cycles))
    flops = model_flops_per_image(config, IMAGES) * per_chip
    share = flops / (1e-3 * (of_xla + of_kernels)) / tpu_slice.chip.peak
    memory = compiled.memory_analysis().peak_memory_in_bytes / GIB
    return (
        f"| {topology}, fsdp {config.runtime.fsdp} | {per_chip} | {memory:.2f} | {of_xla:.1f} | "
        f"{of_kernels:.1f} | **{of_xla + of_kernels:.1f}** | {share:.0%} | "
        f"{cost.bytes / 1e9:.1f} | "
        f"{describe_collectives(cost)} | {traced - start:.0f} | {seconds:.0f} |"
    )


def describe_collectives(cost: Cost) -> str:
    parts = (
        f"{kind} {each.count} x, {each.bytes / 1e6:.0f}"
        for kind, each in sorted(cost.collectives.items())
    )
    return "; ".join(parts)


def count_kernels(module: Module, config: Any) -> Counter[Kernel]:
    """How often each kernel runs in a step."""
    backbone: Any = build_network(config.network).backbone
    hidden = int(backbone.embed_dim * backbone.mlp_ratio)
    crops = config.augment.crops.values()
    grids = [[side // backbone.patch_size for side in part.size] for part in crops]
    counts = [1 + backbone.registers + height * width for height, width in grids]
    tokens = {-(-count // SUBLANES) * SUBLANES: count for count in counts}
    long = {(blocks := cut(count)).size * blocks.number: count for count in counts}
    runs: Counter[Kernel] = Counter()

    def visit(name: str, times: int) -> None:
        for instruction in module.computations[name].values():
            if instruction.opcode == "while":
                visit(instruction.called("body")[0], times * (trip_count(instruction, module) or 1))
            elif instruction.opcode == "call":
                visit(instruction.called("to_apply")[0], times)
            elif "tpu_custom_call" in instruction.attributes:
                kernel = re.sub(r"\.\d+$", "", instruction.name)
                if kernel.startswith(SPLASH):
                    shapes = (array.shape for array in instruction.arrays)
                    crops, heads, padded, width = next(x for x in shapes if len(x) == 4)
                    shape = (crops, long[padded], heads * width, hidden, heads)
                else:
                    crops, padded, dim = instruction.arrays[0].shape
                    shape = (crops, tokens[padded], dim, hidden, backbone.num_heads)
                runs[Kernel(kernel, *shape)] += times

    visit(module.entry, 1)
    return runs
