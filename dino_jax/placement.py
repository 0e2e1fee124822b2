"""What a network does differently on the devices of a mesh; its numbers stay the same."""

from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from dino_jax.kernels.branches import MIB, VMEM_BYTES, Branches
from dino_jax.models.network import Network
from dino_jax.models.vit import VisionTransformer


def fit_to_mesh(network: Network, mesh: Mesh) -> Network:
    """A network whose blocks gather their weights, and use the kernels of the devices, if any.

    The kernels multiply in bfloat16: a ViT that computes in float32 is left to XLA.

    Args:
      network: of either branch.
      mesh: that it runs on.
    """
    backbone: Any = network.backbone
    if not isinstance(backbone, VisionTransformer):
        return network
    vmem = VMEM_BYTES.get(mesh.devices.flat[0].device_kind, 0) * MIB
    if backbone.dtype != jnp.bfloat16:
        vmem = 0
    branches = Branches(mesh, backbone.depth, backbone.norm_epsilon, vmem)
    return network.clone(backbone=backbone.clone(branches=branches))
