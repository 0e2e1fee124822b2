"""ResNet (arXiv:1512.03385) with bottlenecks as in torchvision: stride in the 3x3 ("v1.5")."""

from collections.abc import Sequence
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from dino_jax.config.range import MOST_WIDTH
from dino_jax.config.section import option
from dino_jax.models.backbone import Features, OneBlock
from dino_jax.models.layers import BatchNorm, Dtype, matmul_precision

EXPANSION = 4  # output channels of a bottleneck over its width

STEMS = ("imagenet", "small")
# Blocks per stage (arXiv:1512.03385, Table 1).
DEPTHS = {"50": (3, 4, 6, 3), "101": (3, 4, 23, 3)}


@dataclass(frozen=True)
class Config:
    """The section `config.network.backbone` of a ResNet."""

    kind: str = option("resnet", "ResNet with bottlenecks (arXiv:1512.03385)")
    size: str = option("50", "gives depths", among=DEPTHS)
    depths: tuple[int, ...] | None = option(
        None, "blocks per stage; None: as `size`", at_least=1, at_most=1000
    )
    width: int = option(64, "channels of the stem; officially 64", at_least=1, at_most=MOST_WIDTH)
    in_channels: int = option(3, "channels of an image", at_least=1, at_most=1000)
    stem: str = option(
        "imagenet",
        "imagenet (7x7 of stride 2, max pool) | small (3x3 of stride 1; SimCLR below 33 pixels)",
        among=STEMS,
    )
    zero_init_residual: bool = option(
        False, "the last BatchNorm of a block starts with scale 0 (SimCLR, BYOL, MoCo v3)"
    )


def convolution(
    features: int, kernel: int, stride: int, dtype: Dtype, name: str | None = None
) -> nn.Conv:
    """A convolution without bias, with torch's padding and He initialization over its outputs."""
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=stride,
        padding=kernel // 2,
        use_bias=False,
        dtype=dtype,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
        precision=matmul_precision(dtype),
        name=name,
    )


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution around a shortcut: [B, H, W, C] -> [B, H/s, W/s, 4 * width].

    The module names are torchvision's, with "_" instead of "."
    """

    width: int
    stride: int
    dtype: Dtype = jnp.float32
    zero_init_residual: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        out_dim = EXPANSION * self.width
        shortcut = x
        if self.stride != 1 or x.shape[-1] != out_dim:
            shortcut = convolution(out_dim, 1, self.stride, self.dtype, name="downsample_0")(x)
            shortcut = BatchNorm(dtype=self.dtype, name="downsample_1")(shortcut)
        x = convolution(self.width, 1, 1, self.dtype, name="conv1")(x)
        x = nn.relu(BatchNorm(dtype=self.dtype, name="bn1")(x))
        x = convolution(self.width, 3, self.stride, self.dtype, name="conv2")(x)
        x = nn.relu(BatchNorm(dtype=self.dtype, name="bn2")(x))
        x = convolution(out_dim, 1, 1, self.dtype, name="conv3")(x)
        first_scale = 0.0 if self.zero_init_residual else 1.0
        last = BatchNorm(dtype=self.dtype, first_scale=first_scale, name="bn3")
        return nn.relu(last(x) + shortcut)


class ResNet(OneBlock, nn.Module):
    """Maps [B, H, W, C] normalized images to a pooled vector and the last feature map.

    BatchNorm uses and tracks the statistics of the batch while "batch_stats" is mutable, and the
    running ones otherwise. There is no stochastic depth.

    Attributes:
      depths: blocks per stage; every stage but the first halves height and width.
      width: channels of the stem and of the first stage's 3x3 convolutions.
      in_channels: channels of an image.
      dtype: dtype of the activations; parameters and statistics are float32.
      stem: one of `STEMS`.
      zero_init_residual: whether the last BatchNorm of a block starts with scale 0, so that blocks
        start as their shortcuts (arXiv:1706.02677, Section 5.1).
    """

    depths: Sequence[int] = DEPTHS["50"]
    width: int = 64
    in_channels: int = 3
    dtype: Dtype = jnp.float32
    stem: str = "imagenet"
    zero_init_residual: bool = False

    @property
    def embed_dim(self) -> int:
        """D, channels of the last feature map."""
        return EXPANSION * self.width * 2 ** (len(self.depths) - 1)

    @property
    def patch_size(self) -> int:
        """Pixels per cell of the last feature map along one axis."""
        halvings = {"imagenet": 2, "small": 0}[self.stem] + len(self.depths) - 1
        return 2**halvings

    @nn.compact
    def __call__(self, images: jax.Array) -> Features:
        """[B, H, W, C] -> {"cls": [B, D] mean over the map, "patches": [B, N, D] row by row}."""
        kernel, stride = {"imagenet": (7, 2), "small": (3, 1)}[self.stem]
        x = convolution(self.width, kernel, stride, self.dtype, name="conv1")(images)
        x = nn.relu(BatchNorm(dtype=self.dtype, name="bn1")(x))
        if self.stem == "imagenet":
            x = nn.pool(x, -jnp.inf, jax.lax.max, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage, depth in enumerate(self.depths):
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                block = Bottleneck(
                    self.width * 2**stage,
                    stride,
                    self.dtype,
                    self.zero_init_residual,
                    name=f"layer{stage + 1}_{index}",
                )
                x = block(x)
        patches = x.reshape(x.shape[0], -1, x.shape[-1])
        return {"cls": jnp.mean(patches, axis=1), "patches": patches}


def build(config: Config, dtype: Dtype) -> ResNet:
    """Builds a ResNet.

    Args:
      config: the section.
      dtype: dtype of the activations.

    Raises:
      ValueError: if it has no stages.
    """
    depths = DEPTHS[config.size] if config.depths is None else tuple(config.depths)
    if not depths:
        raise ValueError(
            "config.network.backbone.depths () must have a number for at least one stage, or be "
            "None for those of `size`"
        )
    return ResNet(
        depths, config.width, config.in_channels, dtype, config.stem, config.zero_init_residual
    )
