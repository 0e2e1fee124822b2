"""The arithmetic that suits a device."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from dino_jax.models.layers import Dtype
from dino_jax.models.network import Network
from dino_jax.models.products import multiplies_bfloat16


def with_dtype(network: Network, dtype: Dtype) -> Network:
    """The same network with activations of another dtype.

    Args:
      network: a network as `build_network` makes it.
      dtype: dtype of the activations.

    Raises:
      ValueError: if a part of it has none to choose.
    """

    def change(module: Any) -> nn.Module:
        if not hasattr(module, "dtype"):
            raise ValueError(f"a {type(module).__name__} has no dtype of activations to choose")
        return module.clone(dtype=dtype)

    return _each(network, change)


def suited_to(network: Network, device: Any) -> Network:
    """The same network, on a CPU with float32 activations instead of bfloat16 ones.

    Where the processor multiplies bfloat16 numbers, the operands of products are rounded to them,
    as on other devices; elsewhere everything is float32, which is faster.

    Args:
      network: a network as `build_network` makes it.
      device: one of the devices that it will run on.
    """
    if device.platform != "cpu":
        return network
    return _each(network, _in_float32)


def _each(network: Network, change: Callable[[Any], nn.Module]) -> Network:
    heads = {name: change(head) for name, head in network.heads.items()}
    return network.clone(backbone=change(network.backbone), heads=heads)


def _in_float32(module: Any) -> nn.Module:
    if getattr(module, "dtype", None) != jnp.bfloat16:
        return module
    rounds = {"rounds": multiplies_bfloat16()} if hasattr(module, "rounds") else {}
    return module.clone(dtype=jnp.float32, **rounds)
