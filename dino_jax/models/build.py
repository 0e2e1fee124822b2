"""Builds the network that a config describes; the tables of backbones and heads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from dino_jax.config.section import kinds, option, section
from dino_jax.config.upgrade import upgrade
from dino_jax.models import (
    bottleneck_head,
    clip,
    convnext,
    decoder,
    dino_head,
    mlp_head,
    resnet,
    siglip,
    vit,
)
from dino_jax.models.head import order_heads
from dino_jax.models.network import Network

BACKBONES = {"vit": vit, "resnet": resnet, "convnext": convnext, "clip": clip, "siglip": siglip}
HEADS = {"dino": dino_head, "mlp": mlp_head, "decoder": decoder, "bottleneck": bottleneck_head}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclass(frozen=True)
class NetworkConfig:
    """The section `config.network`."""

    dtype: str = option(
        "bfloat16",
        "of the activations; parameters, statistics and losses are float32; on CPUs bfloat16 is "
        "for the operands of products alone, where the processor multiplies it",
        among=DTYPES,
    )
    mean: tuple[float, ...] = option(
        (0.485, 0.456, 0.406),
        "of every channel, for pixels in [0, 1]; ImageNet's (torchvision)",
        at_least=-1000,
        at_most=1000,
    )
    std: tuple[float, ...] = option(
        (0.229, 0.224, 0.225), "of every channel, likewise", above=1e-6, at_most=1000
    )
    backbone: Any = kinds(BACKBONES, "maps images to features", default="vit")
    heads: dict[str, Any] = kinds(
        HEADS, "project features, by name", default={"dino": "dino"}, is_table=True
    )


def read_network_config(plain: Mapping[str, Any]) -> NetworkConfig:
    """The network of a config.json of this version or an earlier one.

    Args:
      plain: content of the file.

    Raises:
      ValueError: if its form is newer, or something in its network is unknown or out of range.
    """
    return section("config.network", upgrade(dict(plain))["network"], NetworkConfig)


def build_network(config: NetworkConfig) -> Network:
    """Builds the network that `config.network` describes.

    Raises:
      ValueError: if sizes do not fit together, or the input of a head does not exist.
    """
    dtype = DTYPES[config.dtype]
    backbone = BACKBONES[config.backbone.kind].build(config.backbone, dtype)
    heads = {name: HEADS[head.kind].build(head, dtype) for name, head in config.heads.items()}
    order_heads(heads)
    if not len(config.mean) == len(config.std) == backbone.in_channels:
        raise ValueError(
            f"config.network.mean ({len(config.mean)} values) and config.network.std "
            f"({len(config.std)} values) need one value for each of the {backbone.in_channels} "
            "channels of config.network.backbone.in_channels"
        )
    return Network(backbone, heads, tuple(config.mean), tuple(config.std))
