"""Where arrays live: a (data, fsdp) mesh, batches over all axes, parameters by their shapes.

Several slices, joined by the network of the data center, are an axis "slice" before both: every
slice has all of the state, and only gradients and other sums cross it.
"""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

# Smaller arrays are kept whole on every device: splitting them saves nothing.
MIN_SHARDED_SIZE = 2**12


def make_mesh(fsdp: int, devices: Sequence[Any] | None = None) -> Mesh:
    """Makes a mesh of all devices with axes "data" and "fsdp", or "slice", "data" and "fsdp".

    Args:
      fsdp: devices of a slice that share one copy of the state; 1 is plain data parallelism.
      devices: all devices of all processes by default.

    Raises:
      ValueError: if `fsdp` does not divide the number of devices of a slice.
    """
    slices = split_slices(jax.devices()) if devices is None else _by_slice_index(devices)
    count = len(slices[0])
    if fsdp < 1 or count % fsdp:
        valid = [n for n in range(1, count + 1) if count % n == 0]
        of = "" if len(slices) == 1 else f" of each of the {len(slices)} slices"
        raise ValueError(
            f"runtime.fsdp ({fsdp}) must divide the {count} devices{of}; valid values: {valid}"
        )
    grids = np.stack([_grid(fsdp, each) for each in slices])
    if len(slices) == 1:
        return Mesh(grids[0], ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    return Mesh(grids, ("slice", "data", "fsdp"), axis_types=(AxisType.Auto,) * 3)


def split_slices(devices: Sequence[Any]) -> list[list[Any]]:
    """All devices by slice, in order.

    TPUs know their slice. For others MEGASCALE_NUM_SLICES, which the launchers of several slices
    set, says how many blocks of processes there are.

    Raises:
      ValueError: if slices have different sizes, or the variable does not divide the processes.
    """
    slices = _by_slice_index(devices)
    text = os.environ.get("MEGASCALE_NUM_SLICES", "")
    if len(slices) > 1 or not text or devices[0].platform == "tpu":
        return slices
    processes = sorted({device.process_index for device in devices})
    if not text.isdecimal() or not int(text) or len(processes) % int(text):
        raise ValueError(
            f"MEGASCALE_NUM_SLICES ({text}) must divide the {len(processes)} processes of the run"
        )
    each = len(processes) // int(text)
    blocks: list[list[Any]] = [[] for _ in range(int(text))]
    for device in devices:
        blocks[processes.index(device.process_index) // each].append(device)
    return blocks


def _by_slice_index(devices: Sequence[Any]) -> list[list[Any]]:
    slices: dict[int, list[Any]] = {}
    for device in devices:
        slices.setdefault(getattr(device, "slice_index", 0) or 0, []).append(device)
    sizes = {index: len(slices[index]) for index in sorted(slices)}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"slices must have the same number of devices, these have {sizes}")
    return [slices[index] for index in sizes]


def _grid(fsdp: int, devices: Sequence[Any]) -> np.ndarray:
    """[data, fsdp] devices of one slice."""
    count = len(devices)
    if fsdp == count and all(hasattr(device, "coords") for device in devices):
        # Row by row of the torus, along whose axes the state can be gathered and scattered.
        rows = sorted(devices, key=lambda device: (*device.coords, device.core_on_chip))
        return np.array(rows).reshape(1, count)
    # jax.make_mesh knows only degrees that are products of whole axes of the torus: on 4 x 4 x 4
    # chips 4 and 16, but not 8.
    return mesh_utils.create_device_mesh(
        (count // fsdp, fsdp), devices, allow_split_physical_axes=True
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Images over all devices: axis 0 over all axes of the mesh."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def describe_mesh(mesh: Mesh) -> str:
    """Describes the mesh in one line for the log."""
    device = mesh.devices.flat[0]
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    devices = f"{mesh.size} x {device.device_kind}"
    return f"mesh        {axes} on {devices}, {jax.process_count()} process(es)"


def state_sharding(mesh: Mesh, state: Any) -> Any:
    """Shardings of a state, see `split_axis`."""
    return jax.tree.map(
        lambda leaf: NamedSharding(mesh, split_spec(split_axis(leaf.shape, mesh.shape["fsdp"]))),
        state,
    )


def split_axis(shape: Sequence[int], degree: int) -> int | None:
    """The axis along which "fsdp" splits an array of a state: the largest that it divides.

    None for small arrays, and for those that cannot be split. Matrices of stacked layers are split
    by rows if that is possible: the TPU compiler does not scatter along the lanes of a register
    unless a part fills them.
    """
    axes = [axis for axis, size in enumerate(shape) if size % degree == 0]
    if degree == 1 or np.prod(shape) < MIN_SHARDED_SIZE or not axes:
        return None
    rows = [axis for axis in axes if 0 < axis < len(shape) - 1]
    return max(rows or axes, key=lambda axis: shape[axis])


def split_spec(axis: int | None) -> PartitionSpec:
    """Sharding of an array that "fsdp" splits along an axis, or of one that is whole everywhere."""
    return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, "fsdp")


def with_sharding(abstract: Any, shardings: Any) -> Any:
    """The state's abstract arrays with their target shardings."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        shardings,
    )


def jit_step(step: Callable, mesh: Mesh, shardings: Any) -> Any:
    """Jits `step(state, batch) -> (state, metrics)`, donating the old state's buffers to the new.

    Args:
      step: the pure function.
      mesh: mesh that it runs on.
      shardings: shardings of the state; metrics are on every device.
    """
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, replicated(mesh)))


def check_batch(config: Any, mesh: Mesh) -> None:
    """Checks that every device gets whole images, and whole groups of masks, in every pass.

    Args:
      config: the whole config.
      mesh: mesh of the run.

    Raises:
      ValueError: if one does not; the message names values that fit.
    """
    accumulate_steps, batch_size = config.accumulate_steps, config.batch_size
    if accumulate_steps < 1:
        raise ValueError(f"accumulate_steps must be at least 1, got {accumulate_steps}")
    unit = mesh.size * accumulate_steps
    if batch_size < 1 or batch_size % unit:
        below = max(batch_size // unit * unit, unit)
        raise ValueError(
            f"batch_size ({batch_size}) must be a multiple of {unit} = {mesh.size} devices x "
            f"accumulate_steps ({accumulate_steps}); try --config.batch_size={below} or "
            f"--config.batch_size={below + unit}"
        )
    images, group = batch_size // unit, config.masking.group_size
    if config.masking.probability > 0 and images % group:
        raise ValueError(
            f"masking.group_size ({group}) must divide the {images} images that each of the "
            f"{mesh.size} devices gets in a pass; try "
            f"--config.masking.group_size={math.gcd(images, group)} or "
            f"--config.batch_size={unit * group}"
        )


def shard_batch(batch: dict[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """Turns this process's rows into one global array per entry."""
    return {
        name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()
    }


def put_everywhere(array: np.ndarray, mesh: Mesh) -> jax.Array:
    """The whole array on every device; all processes call it with the same values."""
    return jax.make_array_from_callback(array.shape, replicated(mesh), lambda index: array[index])


def make_replicate(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    """Compiles what puts the whole of a sharded array on every device; all processes call it."""
    return jax.jit(lambda x: x, out_shardings=replicated(mesh))
