"""Weights that the devices of a mesh share: gathered for use, their gradients summed and split.

What `sharding.state_sharding` splits over "fsdp" comes together in the dtype of the products, and
every device keeps its own part of the sum of the gradients (ZeRO, arXiv:1910.02054). The gradients
are summed over all devices once, in a chosen dtype.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from dino_jax.devices.sharding import split_axis, split_spec

Weights = Any
# Nothing is computed between the parts of weights and the operands of a device's products.
_MOVES = {"all_gather", "broadcast_in_dim", "convert_element_type", "squeeze"}


def keep_no_copies(primitive: Any, *_: Any, **__: Any) -> bool:
    """A policy of `jax.checkpoint`: keeps everything computed; weights are gathered again."""
    return primitive.name not in _MOVES


@dataclasses.dataclass(frozen=True)
class SharedWeights:
    """Float32 weights of one layer of a scan over `depth`, or of a module outside of a scan.

    A leaf has the shape that the layer uses, or [1, n] for a row of a kernel.

    Attributes:
      mesh: mesh whose devices share them.
      depth: length of the scan whose layers the state stacks; 0: no scan.
      gradient_dtype: dtype in which gradients are summed over the devices.
      ring: see `ring_of`.
    """

    mesh: Mesh
    depth: int = 0
    gradient_dtype: Any = jnp.float32
    ring: int = 0

    @property
    def per_device(self) -> PartitionSpec:
        """One row, or as many crops, for every device."""
        return PartitionSpec(self.mesh.axis_names)

    def specs(self, weights: Weights) -> Any:
        """How the state splits the weights."""
        return jax.tree.map(lambda leaf: split_spec(self._axis(leaf.shape)), weights)

    def gather(self, weights: Weights, dtype: Any, parts_of: Weights) -> Weights:
        """Whole weights from the parts of this device; matrices in `dtype`, the rest in float32.

        Call it inside a `shard_map`, as `reduce`.

        Args:
          weights: this device's parts.
          dtype: dtype of the products.
          parts_of: the same weights outside the `shard_map`; only their shapes are used.
        """

        def gather(leaf: jax.Array, whole: jax.Array) -> jax.Array:
            leaf = leaf.astype(dtype) if min(whole.shape) > 1 and whole.ndim > 1 else leaf
            axis = self._axis(whole.shape)
            if axis is None:
                return leaf
            for groups in reversed(self._stages()):
                leaf = jax.lax.all_gather(
                    leaf, "fsdp", axis=axis, tiled=True, axis_index_groups=groups
                )
            return leaf

        return jax.tree.map(gather, weights, parts_of)

    def reduce(self, gradients: Weights) -> Weights:
        """Sums over all devices, float32; each keeps its own part of what the state splits."""

        def reduce(gradient: jax.Array) -> jax.Array:
            axis = self._axis(gradient.shape)
            gradient = gradient.astype(self.gradient_dtype)
            if axis is None:
                return jax.lax.psum(gradient, self.mesh.axis_names).astype(jnp.float32)
            for groups in self._stages():
                gradient = jax.lax.psum_scatter(
                    gradient, "fsdp", scatter_dimension=axis, tiled=True, axis_index_groups=groups
                )
            others = tuple(name for name in self.mesh.axis_names if name != "fsdp")
            return jax.lax.psum(gradient, others).astype(jnp.float32)

        return jax.tree.map(reduce, gradients)

    def copies(self, weights: Weights, dtype: Any) -> Weights:
        """[devices, ...]: for every device a copy of its own, whose gradients `reduce` sums."""
        split, own = self.specs(weights), self.per_device
        on_mesh = partial(jax.shard_map, mesh=self.mesh, check_vma=False)

        @partial(on_mesh, in_specs=(split,), out_specs=own)
        def spread(parts: Weights) -> Weights:
            return jax.tree.map(lambda leaf: leaf[None], self.gather(parts, dtype, weights))

        @partial(on_mesh, in_specs=own, out_specs=split)
        def collect(gradients: Weights) -> Weights:
            return self.reduce(jax.tree.map(lambda leaf: leaf[0], gradients))

        copies = jax.custom_vjp(spread)
        copies.defvjp(lambda parts: (spread(parts), None), lambda _, rows: (collect(rows),))
        return copies(weights)

    def run(self, function: Callable[..., Any], weights: Weights, rows: Any, dtype: Any) -> Any:
        """`function(weights, *rows)` of whole weights, every device for its rows.

        Args:
          function: treats every row, of the first axis of its arguments and results, alone.
          weights: weights that it uses.
          rows: a tuple of arguments.
          dtype: dtype of the products, see `gather`.

        Returns:
          Results, with those of `pad` at their ends.
        """
        own = self.per_device

        @partial(jax.shard_map, mesh=self.mesh, in_specs=own, out_specs=own, check_vma=False)
        def run(copies: Weights, rows: Any) -> Any:
            return function(jax.tree.map(lambda leaf: jnp.squeeze(leaf, 0), copies), *rows)

        return run(self.copies(weights, dtype), self.pad(rows))

    def pad(self, rows: Any) -> Any:
        """Pads to the same number of rows on every device, with zeros."""

        def pad(x: jax.Array) -> jax.Array:
            missing = -len(x) % self.mesh.size
            return jnp.pad(x, ((0, missing), *[(0, 0)] * (x.ndim - 1))) if missing else x

        return jax.tree.map(pad, rows)

    def _axis(self, shape: tuple[int, ...]) -> int | None:
        """Axis along which the state splits a leaf; None if it is whole, or split by layers."""
        lead = int(len(shape) == 2 and shape[0] == 1)
        layers = (self.depth,) if self.depth else ()
        axis = split_axis((*layers, *shape[lead:]), self.mesh.shape["fsdp"])
        if axis is None or axis < len(layers):
            return None
        return axis - len(layers) + lead

    def _stages(self) -> list[list[list[int]] | None]:
        """Groups of devices on "fsdp", for one scattering after another; None: all of them."""
        degree, ring = self.mesh.shape["fsdp"], self.ring
        if not ring:
            return [None]
        across = [list(range(first, degree, ring)) for first in range(ring)]
        along = [list(range(first, first + ring)) for first in range(0, degree, ring)]
        return [across, along]


def ring_of(mesh: Mesh) -> int:
    """Number of neighbors on "fsdp" that form a ring of the torus; 0 if it does not matter.

    It matters because the TPU compiler (libtpu 0.0.42), asked to gather or scatter over a whole
    slice at once, sums over all devices instead, for twice the traffic. Along a ring and then
    across the rings it does as asked.
    """
    devices = list(mesh.devices.reshape(-1))
    if len(devices) != mesh.shape["fsdp"] or not all(
        hasattr(device, "coords") for device in devices
    ):
        return 0
    places = np.array([device.coords for device in devices])
    lines = places[:, (places[:1] == places[1:2]).all(axis=0)]  # what the first ring shares
    ring = int((lines == lines[0]).all(axis=1).sum())
    if len(devices) % ring or ring in (1, len(devices)):
        return 0
    grid = places.reshape(-1, ring, places.shape[-1])
    same_steps = (np.diff(grid, axis=1) == np.diff(grid, axis=1)[:1]).all()
    return ring if same_steps else 0
