"""What a network does differently on the devices of a mesh; its numbers stay the same."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from dino_jax.devices.kernels.branches import MIB, VMEM_BYTES, Branches
from dino_jax.devices.kernels.shared_weights import SharedWeights, ring_of
from dino_jax.devices.sharding import replicated
from dino_jax.models.network import Network
from dino_jax.models.vit import VisionTransformer

GRADIENT_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def fit_to_mesh(network: Network, mesh: Mesh | None, gradient_dtype: str = "float32") -> Network:
    """A network whose ViT and heads run on every device for its crops, with kernels if it has any.

    The kernels multiply in bfloat16: a ViT that computes in float32 is left to XLA. A ViT with
    `scan_unroll` 0 gets what is fastest on these devices.

    Args:
      network: of either branch.
      mesh: that it runs on; None: one device without kernels.
      gradient_dtype: in which devices sum the gradients of ViT and heads; BatchNorm and ResNets
        leave it to XLA.

    Raises:
      ValueError: if the dtype is unknown.
    """
    if gradient_dtype not in GRADIENT_DTYPES:
        raise ValueError(
            f"unknown runtime.gradient_dtype {gradient_dtype!r}; known: {sorted(GRADIENT_DTYPES)}"
        )
    if mesh is None:
        return network
    backbone: Any = network.backbone
    device = mesh.devices.flat[0]
    if isinstance(backbone, VisionTransformer) and not backbone.scan_unroll:
        # Inside a loop the TPU compiler stores all that the backward pass needs, layer by layer,
        # before it goes on; without one it chooses. CPUs are faster with loops, and GPUs unknown.
        backbone = backbone.clone(scan_unroll=backbone.depth if device.platform == "tpu" else 1)
    vmem = VMEM_BYTES.get(device.device_kind, 0) * MIB
    if mesh.size == 1 and not vmem:
        return network.clone(backbone=backbone)
    weights = SharedWeights(mesh, 0, GRADIENT_DTYPES[gradient_dtype], ring_of(mesh))
    if isinstance(backbone, VisionTransformer):
        if backbone.dtype != jnp.bfloat16:
            vmem = 0
        backbone = backbone.clone(branches=Branches(weights, backbone.norm_epsilon, vmem))
    return network.clone(backbone=backbone, weights=weights)


def gather_weights(network: Network, variables: Any) -> Any:
    """Variables of a network that is about to run, whole where XLA places the work.

    Weights and batch are split over the same devices. Left alone, XLA would exchange the far larger
    activations of every layer in place of the weights.
    """
    weights = network.weights
    if weights is None:
        return variables
    alone = {f"heads_{name}" for name in network.heads if network.runs_alone(name)}
    if isinstance(network.backbone, VisionTransformer):
        alone.add("backbone")

    def gather(path: tuple, leaf: jax.Array) -> jax.Array:
        if alone.intersection(getattr(key, "key", None) for key in path):
            return leaf
        return jax.lax.with_sharding_constraint(leaf, replicated(weights.mesh))

    return jax.tree_util.tree_map_with_path(gather, variables)
