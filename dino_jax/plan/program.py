"""Compiles the train step of a config for a slice, as dino_jax.train does on one."""

import dataclasses
import re
import time
from typing import Any

import jax
import numpy as np

from dino_jax.data.multi_crop import build_multi_crop
from dino_jax.data.pipeline import batch_layout
from dino_jax.devices.sharding import (
    batch_sharding,
    check_batch,
    jit_step,
    make_mesh,
    state_sharding,
    with_sharding,
)
from dino_jax.plan.cost import Cost, module_cost
from dino_jax.plan.hlo import parse_module
from dino_jax.plan.topology import GIB, Slice
from dino_jax.step.recipe import Recipe, build_recipe


@dataclasses.dataclass(frozen=True)
class Program:
    """The compiler's report about a step, per device.

    Attributes:
      fits: whether it compiled.
      memory: bytes of HBM that it needs at its peak. (The sum of arguments and temporaries does not
        tell: libtpu compiles programs for which it exceeds the memory.)
      state: bytes of the state, a part of `memory`.
      cost: cost of one step; None if it does not fit or the compiler cannot print the program.
      seconds: time that tracing and compiling took.
    """

    fits: bool
    memory: float
    state: float
    cost: Cost | None
    seconds: float


def lower_step(config: Any, images: int, devices: Any) -> tuple[Any, float]:
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
    frozen = sorted(name for name, role in config.roles.items() if role.follow == "frozen")
    if frozen:
        raise ValueError(
            f"frozen roles cannot be planned yet: plan a config without {frozen} and add the "
            "weights of each and one forward pass over the crops that it sees"
        )
    mesh = make_mesh(config.runtime.fsdp, devices)
    check_batch(config, mesh)
    recipe = build_recipe(config, images)
    abstract = jax.eval_shape(recipe.init, jax.random.key(config.seed))
    shardings = state_sharding(mesh, abstract)
    step = recipe.make_step(config.runtime.log_every_steps, mesh, config.runtime.gradient_dtype)
    batch = abstract_batch(config, recipe, batch_sharding(mesh))
    lowered = jit_step(step, mesh, shardings).lower(with_sharding(abstract, shardings), batch)
    return lowered, state_bytes(abstract, shardings)


def abstract_batch(config: Any, recipe: Recipe, sharding: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of the batch that the step of a config takes."""
    layout = batch_layout(build_multi_crop(config.augment), recipe.masking, config.batch_size)
    del layout["unreadable"]  # stays on the host
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
        for name, (shape, dtype) in layout.items()
    }


def state_bytes(abstract: Any, shardings: Any) -> float:
    """Bytes of a state on one device."""
    sizes = jax.tree.map(
        lambda leaf, sharding: np.prod(sharding.shard_shape(leaf.shape)) * itemsize(leaf.dtype),
        abstract,
        shardings,
    )
    return float(sum(jax.tree.leaves(sizes)))


def itemsize(dtype: Any) -> int:
    """Bytes of an element; a random key of jax has two words of 32 bits."""
    return 8 if jax.numpy.issubdtype(dtype, jax.dtypes.prng_key) else np.dtype(dtype).itemsize


def compile_step(config: Any, images: int, tpu_slice: Slice) -> Program:
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
        cost = module_cost(parse_module(compiled.as_text()), len(tpu_slice.devices))
    except jax.errors.JaxRuntimeError:  # libtpu fails to print some large programs
        cost = None
    return Program(True, memory, state, cost, time.monotonic() - start)


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


def with_changes(config: Any, changes: dict[str, Any]) -> Any:
    """A copy of a config with other values, {"runtime.fsdp": 4, …}."""
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict(changes)
    return changed
