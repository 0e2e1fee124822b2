"""What fits: the memory of a train step by backbone and images per device.

  python -m tests.benchmarks.memory --out=docs/explain/memory.json
  python -m tests.benchmarks.memory --out=docs/explain/memory.json --slices v5e:2x2 v6e:2x2

compiles the step of `vits16_vanilla` (2 crops of 224 and 8 of 96 pixels, K = 65,536) with other
backbones, for this machine's CPU or for TPU slices that are not there (extra `tpu`), and writes
what the compiler says about memory. A program that is in the file is not compiled again. The site
makes its table of this file (docs/generators/hardware.py).
"""

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax

from dino_jax.commands.config_file import load_config
from dino_jax.plan.program import compile_step, lower_step
from dino_jax.plan.topology import open_slice
from dino_jax.run.whole_config import Config, read_config

IMAGES = 1_281_167  # of ImageNet-1k
SIZES = ("tiny", "small", "base", "large")
REMATS = ("names", "full")  # of the CPU's programs; TPUs have kernels, which need none
BATCHES = (8, 32)  # memory is a line in the images, which two programs determine
PER_DEVICE = 32  # images, on TPUs


def config_of(size: str, remat: str, batch: int) -> Config:
    """The config of a program; `batch` is that of all devices together."""
    config = load_config("vits16_vanilla")
    config.network.backbone.size = size
    config.network.backbone.remat = remat
    config.batch_size = batch
    return read_config(config)


def on_cpu(size: str, remat: str, batch: int) -> dict[str, Any]:
    """Bytes of a step on one CPU device, where activations are float32."""
    lowered, state = lower_step(config_of(size, remat, batch), IMAGES, jax.devices("cpu")[:1])
    analysis = lowered.compile().memory_analysis()
    memory = analysis.argument_size_in_bytes + analysis.temp_size_in_bytes
    return dict(memory=memory, state=int(state))


def on_slice(name: str, size: str) -> dict[str, Any]:
    """Bytes of a step on each device of a slice, and whether that fits."""
    tpu_slice = open_slice(name)
    config = config_of(size, "none", PER_DEVICE * len(tpu_slice.devices))
    program = compile_step(config, IMAGES, tpu_slice)
    memory, state = int(program.memory), int(program.state)
    return dict(memory=memory, state=state, fits=program.fits, usable=int(tpu_slice.chip.hbm))


def work(slices: Sequence[str], sizes: Sequence[str]) -> dict[str, Callable[[], dict[str, Any]]]:
    """What is to be compiled, by the key that the file has for it."""
    if slices:
        return {f"{n} {s}": partial(on_slice, n, s) for n in slices for s in sizes}
    return {
        f"cpu {size} {remat} {batch}": partial(on_cpu, size, remat, batch)
        for size in sizes
        for remat in REMATS
        for batch in BATCHES
    }


def main() -> None:
    """Compiles what the file lacks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--slices", nargs="*", default=[])
    parser.add_argument("--sizes", nargs="*", default=SIZES)
    given = parser.parse_args()
    found = json.loads(given.out.read_text()) if given.out.exists() else {"jax": jax.__version__}
    for key, measure in work(given.slices, given.sizes).items():
        if key not in found:
            found[key] = measure()
            given.out.write_text(json.dumps(found, indent=1) + "\n")
            print(key, found[key], flush=True)


if __name__ == "__main__":
    main()
