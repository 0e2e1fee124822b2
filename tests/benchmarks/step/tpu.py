"""The train step by the TPU compiler's own count, for a slice that need not be there."""

import time

from dino_jax.config.change import change
from dino_jax.plan.cost import Cost, module_cost
from dino_jax.plan.hlo import parse_module
from dino_jax.plan.kernels import count_cycles, find_kernels
from dino_jax.plan.model_flops import model_flops_per_image
from dino_jax.plan.program import GIB, lower_step
from dino_jax.plan.topology import open_slice
from dino_jax.run.whole_config import Config
from tests.benchmarks.step.cases import IMAGES

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
    kernels = find_kernels(module, config)
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
