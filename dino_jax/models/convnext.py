"""ConvNeXt (arXiv:2201.03545), with the cls token of DINOv3's distilled students.

DINOv3 (arXiv:2508.10104, Sec. 5.3) distills it: its cls token is the mean of the last map, before
the final LayerNorm, which then normalizes it like the cells of the map.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from dino_jax.config.range import MOST_WIDTH
from dino_jax.config.section import option
from dino_jax.models.backbone import Features, ImplicitSettings, OneBlock
from dino_jax.models.layers import Dtype, dense, gelu, layer_norm, linear_init, matmul_precision
from dino_jax.models.stochastic_depth import branch_scales, drop_rates

STEM = 4  # pixels of a side of a cell of the first stage
EPSILON = 1e-6  # of all LayerNorms


class Size(NamedTuple):
    depths: tuple[int, ...]
    width: int


SIZES = {  # arXiv:2201.03545, Sec. 3
    "tiny": Size((3, 3, 9, 3), 96),
    "small": Size((3, 3, 27, 3), 96),
    "base": Size((3, 3, 27, 3), 128),
    "large": Size((3, 3, 27, 3), 192),
}


@dataclass(frozen=True)
class Config:
    """The section `config.network.backbone` of a ConvNeXt."""

    kind: str = option("convnext", "ConvNeXt (arXiv:2201.03545)")
    size: str = option("tiny", "gives depths and width, if they do not", among=SIZES)
    depths: tuple[int, ...] | None = option(
        None, "blocks per stage; None: as `size`", at_least=1, at_most=1000
    )
    width: int | None = option(
        None,
        "channels of the first stage, doubled by every other; None: as `size`",
        at_least=1,
        at_most=MOST_WIDTH,
    )
    in_channels: int = option(3, "channels of an image", at_least=1, at_most=1000)
    layer_scale: float = option(1e-6, "first factors of the branches", above=0, at_most=1000)
    drop_path_rate: float = option(
        0.0, "stochastic depth of the last block in training, linear from 0", at_least=0, below=1
    )


class ConvNextBlock(nn.Module):
    """x + gamma * pwconv2(GELU(pwconv1(LayerNorm(dwconv(x))))): [B, H, W, C] -> [B, H, W, C].

    The names of the modules are the official ones.

    Attributes:
      layer_scale: first value of gamma.
      dtype: dtype of the activations.
    """

    layer_scale: float
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, scale: jax.Array | None = None) -> jax.Array:
        """`scale` is the factor of the branch, [B, 1, 1, 1]; None: 1."""
        width = x.shape[-1]
        branch = _convolution(width, 7, 1, self.dtype, "dwconv", groups=width)(x)
        branch = layer_norm(self.dtype, EPSILON, "norm")(branch)
        branch = gelu(dense(4 * width, self.dtype, "pwconv1")(branch))
        branch = dense(width, self.dtype, "pwconv2")(branch)
        gamma = self.param("gamma", nn.initializers.constant(self.layer_scale), (width,))
        branch = branch * gamma.astype(branch.dtype)
        return x + (branch if scale is None else branch * scale.astype(branch.dtype))


class ConvNext(OneBlock, nn.Module):
    """Maps [B, H, W, C] normalized images to a cls token and the cells of the last feature map.

    A part of a cell at the right or the bottom is cut off. Stochastic depth, per sample, is active
    while the caller provides a "drop_path" RNG.

    Attributes:
      depths: blocks per stage; every stage but the first halves height and width.
      width: channels of the first stage.
      in_channels: channels of an image.
      layer_scale: first factors of the branches.
      drop_path_rate: rate of the last block.
      dtype: dtype of the activations; parameters are float32.
    """

    depths: Sequence[int] = SIZES["tiny"].depths
    width: int = SIZES["tiny"].width
    in_channels: int = 3
    layer_scale: float = 1e-6
    drop_path_rate: float = 0.0
    dtype: Dtype = jnp.float32

    implicit = ImplicitSettings(norm_epsilon=EPSILON)

    @property
    def embed_dim(self) -> int:
        """D, channels of the last feature map."""
        return self.width * 2 ** (len(self.depths) - 1)

    @property
    def patch_size(self) -> int:
        """Pixels per cell of the last feature map along one axis."""
        return STEM * 2 ** (len(self.depths) - 1)

    @nn.compact
    def __call__(self, images: jax.Array) -> Features:
        """[B, H, W, C] -> {"cls": [B, D], "patches": [B, N, D] row by row}."""
        x, scales = images, self._scales(images)
        for stage, depth in enumerate(self.depths):
            width = self.width * 2**stage
            names = [f"downsample_{stage}_{i}" for i in range(2)]
            if stage == 0:
                x = _convolution(width, STEM, STEM, self.dtype, names[0])(x)
                x = layer_norm(self.dtype, EPSILON, names[1])(x)
            else:
                x = layer_norm(self.dtype, EPSILON, names[0])(x)
                x = _convolution(width, 2, 2, self.dtype, names[1])(x)
            for index in range(depth):
                block = ConvNextBlock(self.layer_scale, self.dtype, name=f"stage_{stage}_{index}")
                x = block(x, next(scales))
        cells = x.reshape(x.shape[0], -1, x.shape[-1])
        tokens = jnp.concatenate([jnp.mean(cells, axis=1, keepdims=True), cells], axis=1)
        tokens = layer_norm(self.dtype, EPSILON, "norm")(tokens)
        return {"cls": tokens[:, 0], "patches": tokens[:, 1:]}

    def _scales(self, images: jax.Array) -> Any:
        """For every block [B, 1, 1, 1] factors of its branch, or None."""
        rates = drop_rates("linear", self.drop_path_rate, sum(self.depths))
        draws = self.has_rng("drop_path") and self.drop_path_rate > 0
        for rate in rates:
            if not draws:
                yield None
                continue
            rng = self.make_rng("drop_path")
            yield branch_scales(jnp.float32(rate), rng, len(images))[..., None]


def _convolution(
    width: int, kernel: int, stride: int, dtype: Dtype, name: str, groups: int = 1
) -> nn.Conv:
    """A convolution with bias; the depthwise one keeps the size, the others cut into cells."""
    return nn.Conv(
        width,
        (kernel, kernel),
        strides=stride,
        padding=kernel // 2 if stride == 1 else 0,
        feature_group_count=groups,
        dtype=dtype,
        kernel_init=linear_init,
        precision=matmul_precision(dtype),
        name=name,
    )


def build(config: Config, dtype: Dtype) -> ConvNext:
    """Builds a ConvNeXt.

    Args:
      config: the section; depths and width that are None come from the named size.
      dtype: dtype of the activations.

    Raises:
      ValueError: if it has no stages.
    """
    size = SIZES[config.size]
    depths = size.depths if config.depths is None else tuple(config.depths)
    if not depths:
        raise ValueError(
            "config.network.backbone.depths () must have a number for at least one stage, or be "
            "None for those of `size`"
        )
    return ConvNext(
        depths,
        size.width if config.width is None else config.width,
        config.in_channels,
        config.layer_scale,
        config.drop_path_rate,
        dtype,
    )
