"""Adapts a network to the devices of a mesh; its results stay the same but for rounding."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from dino_jax.devices.kernels.branches import kernel_memory
from dino_jax.devices.kernels.shared_weights import SharedWeights, ring_of
from dino_jax.devices.sharding import replicated
from dino_jax.models.arithmetic import suited_to
from dino_jax.models.network import Network

GRADIENT_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def fit_to_mesh(network: Network, mesh: Mesh | None, gradient_dtype: str = "float32") -> Network:
    """A network whose row-wise parts run on every device for its crops, with kernels if it has any.

    Args:
      network: network of any role.
      mesh: mesh that it runs on; None: one device without kernels.
      gradient_dtype: dtype in which devices sum the gradients of row-wise parts; XLA chooses for
        others.

    Raises:
      ValueError: if the dtype is unknown.
    """
    if gradient_dtype not in GRADIENT_DTYPES:
        raise ValueError(
            f"unknown runtime.gradient_dtype {gradient_dtype!r}; known: {sorted(GRADIENT_DTYPES)}"
        )
    if mesh is None:
        return network
    device, weights = mesh.devices.flat[0], None
    network = suited_to(network, device)
    if mesh.size > 1 or kernel_memory(device):
        weights = SharedWeights(mesh, 0, GRADIENT_DTYPES[gradient_dtype], ring_of(mesh))
    backbone = network.backbone.on_devices(device, weights)
    return network.clone(backbone=backbone, weights=weights)


def gather_weights(network: Network, variables: Any) -> Any:
    """Variables of a network that is about to run, whole where XLA places the work.

    Weights and batch are split over the same devices. By itself, XLA would exchange the far larger
    activations of every layer instead of the weights.
    """
    weights = network.weights
    if weights is None:
        return variables
    alone = {f"heads_{name}" for name, head in network.heads.items() if head.row_wise}
    if network.backbone.row_wise:
        alone.add("backbone")

    def gather(path: tuple, leaf: jax.Array) -> jax.Array:
        if alone.intersection(getattr(key, "key", None) for key in path):
            return leaf
        return jax.lax.with_sharding_constraint(leaf, replicated(weights.mesh))

    return jax.tree_util.tree_map_with_path(gather, variables)
