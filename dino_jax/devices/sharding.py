"""Where arrays live: a (data, fsdp) mesh, batches over both axes, parameters by their shapes."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

# Smaller arrays are kept whole on every device: splitting them saves nothing.
MIN_SHARDED_SIZE = 2**12


def make_mesh(fsdp: int, devices: Sequence[Any] | None = None) -> Mesh:
    """Makes a mesh of all devices with axes "data" and "fsdp".

    Args:
      fsdp: devices that share one copy of the state; 1 is plain data parallelism.
      devices: all devices of all processes by default.

    Raises:
      ValueError: if `fsdp` does not divide the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    if fsdp < 1 or count % fsdp:
        valid = [n for n in range(1, count + 1) if count % n == 0]
        raise ValueError(
            f"runtime.fsdp ({fsdp}) must divide the {count} devices; valid values: {valid}"
        )
    if fsdp == count and all(hasattr(device, "coords") for device in devices):
        # Row by row of the torus, along whose axes the state can be gathered and scattered.
        rows = sorted(devices, key=lambda device: (*device.coords, device.core_on_chip))
        return _mesh(np.array(rows).reshape(1, count))
    # jax.make_mesh knows only degrees that are products of whole axes of the torus: on 4 x 4 x 4
    # chips 4 and 16, but not 8.
    grid = mesh_utils.create_device_mesh(
        (count // fsdp, fsdp), devices, allow_split_physical_axes=True
    )
    return _mesh(grid)


def _mesh(grid: np.ndarray) -> Mesh:
    return Mesh(grid, ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Images over all devices: axis 0 over "data" and "fsdp"."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def describe_mesh(mesh: Mesh) -> str:
    """Describes the mesh in one line for the log."""
    device = mesh.devices.flat[0]
    return (
        f"mesh        data {mesh.shape['data']} x fsdp {mesh.shape['fsdp']} on {mesh.size} x "
        f"{device.device_kind}, {jax.process_count()} process(es)"
    )


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
