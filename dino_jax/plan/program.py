"""Compiles the train step of a config for a slice, as dino_jax.train does on one."""

import dataclasses
import re
import time
from collections import Counter
from typing import Any

import jax
import numpy as np

from dino_jax.data.multi_crop import build_multi_crop
from dino_jax.data.pipeline import batch_layout
from dino_jax.devices.sharding import (
    batch_sharding,
    jit_step,
    make_mesh,
    state_sharding,
    with_sharding,
)
from dino_jax.plan.cost import Cost, module_cost
from dino_jax.plan.hlo import parse_module
from dino_jax.plan.kernels import Kernel, UncountedError, find_kernels
from dino_jax.plan.topology import GIB, Slice
from dino_jax.run.check import check_config
from dino_jax.run.whole_config import Config
from dino_jax.step.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Program:
    """The compiler's report about a step, per device.

    Attributes:
      fits: whether it compiled.
      memory: bytes of HBM that it needs at its peak. (The sum of arguments and temporaries does not
        tell: libtpu compiles programs for which it exceeds the memory.)
      state: bytes of the state, a part of `memory`.
      cost: cost of one step; None if it does not fit or the compiler cannot print the program.
      kernels: how often each kernel runs in it; or why that is not known.
      seconds: time that tracing and compiling took.
    """

    fits: bool
    memory: float
    state: float
    cost: Cost | None
    seconds: float
    kernels: Counter[Kernel] | str = dataclasses.field(default_factory=Counter)


def lower_step(config: Config, images: int, devices: Any) -> tuple[Any, float]:
    """Lowers the step.

    Args:
      config: the whole config.
      images: number of images of the training set.
      devices: devices to compile for.

    Returns:
      The lowered step, and the bytes of the state on one device.

    Raises:
      ValueError: as in dino_jax.train, if the config is inconsistent or does not fit the devices.
    """
    mesh = make_mesh(config.runtime.fsdp, devices)
    config, recipe, step, frozen_roles = check_config(config, images, mesh)
    abstract = jax.eval_shape(recipe.init, jax.random.key(config.seed))
    shardings = state_sharding(mesh, abstract)
    frozen = frozen_roles.abstract(mesh, recipe.crop_shape)
    batch = abstract_batch(config, recipe, batch_sharding(mesh))
    state = with_sharding(abstract, shardings)
    lowered = jit_step(step, mesh, shardings).lower(state, batch, frozen)
    return lowered, state_bytes((state, frozen))


def abstract_batch(
    config: Config, recipe: Recipe, sharding: Any
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of the batch that the step of a config takes."""
    multi_crop = build_multi_crop(config.augment, recipe.crop_shape[2])
    layout = batch_layout(multi_crop, recipe.masking, config.batch_size)
    del layout["unreadable"]  # stays on the host
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
        for name, (shape, dtype) in layout.items()
    }


def state_bytes(placed: Any) -> float:
    """Bytes of abstract arrays with shardings on one device."""
    sizes = [
        np.prod(leaf.sharding.shard_shape(leaf.shape)) * itemsize(leaf.dtype)
        for leaf in jax.tree.leaves(placed)
    ]
    return float(sum(sizes))


def itemsize(dtype: Any) -> int:
    """Bytes of an element; a random key of jax has two words of 32 bits."""
    return 8 if jax.numpy.issubdtype(dtype, jax.dtypes.prng_key) else np.dtype(dtype).itemsize


def compile_step(config: Config, images: int, tpu_slice: Slice) -> Program:
    """Compiles the step of a config for a slice; minutes of CPU time.

    Raises:
      ValueError: as `lower_step`.
    """
    start = time.monotonic()
    lowered, state = lower_step(config, images, tpu_slice.devices)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        memory = needed_memory(str(error))
        if memory is None:
            raise
        return Program(False, memory, state, None, time.monotonic() - start)
    memory = float(compiled.memory_analysis().peak_memory_in_bytes)
    try:
        module = parse_module(compiled.as_text())
    except jax.errors.JaxRuntimeError:  # libtpu fails to print some large programs
        return Program(True, memory, state, None, time.monotonic() - start)
    cost = module_cost(module, len(tpu_slice.devices))
    try:
        kernels: Counter[Kernel] | str = find_kernels(module, config)
    except UncountedError as error:
        kernels = str(error)
    return Program(True, memory, state, cost, time.monotonic() - start, kernels)


def needed_memory(message: str) -> float | None:
    """Bytes of HBM that a program would need, from the error that reports their lack; else None.

    The compiler says either "Used 18.92G of 15.75G hbm" or "total memory required … (512.00G)".
    """
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    found = re.search(r"Used ([\d.]+)([KMGT]) of|required for [^(]*\(([\d.]+)([KMGT])\)", message)
    if not found:
        return None
    number, unit = (found[1], found[2]) if found[1] else (found[3], found[4])
    return float(number) * GIB * 1024.0 ** ("KMGT".index(unit) - 2)
